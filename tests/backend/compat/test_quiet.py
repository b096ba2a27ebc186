"""A good start says nothing of the libraries' internals; what is not known to be that stays visible."""

import os
import subprocess
import sys

import pytest

from megatron_r1 import VERBOSE

START = """
import logging, warnings
from megatron_r1.backend.train import optimizer  # imports Megatron
logging.getLogger("megatron.core.models.gpt.gpt_model").warning("GPTModel IS DEPRECATED")
logging.getLogger("megatron.core.optimizer").warning("a line that nobody foresaw")
warnings.warn("a case that nobody foresaw")
"""


@pytest.mark.slow
@pytest.mark.parametrize("verbose", ["", "1"])
def test_only_what_every_good_start_says_is_left_out(verbose):
    done = subprocess.run(
        [sys.executable, "-c", START], env=os.environ | {VERBOSE: verbose}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "a case that nobody foresaw" in done.stderr
    assert "a line that nobody foresaw" in done.stderr
    noise = ("Apex", "DEPRECATED", "experimental", "CUDA")
    if verbose:
        assert "Apex" in done.stderr
        assert "DEPRECATED" in done.stderr
    else:
        assert not [line for line in done.stderr.splitlines() if any(word in line for word in noise)]
