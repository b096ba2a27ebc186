"""Killed in every kind of stage, a run ends as if nobody had touched it (chaos.py, scripts/chaos.sh)."""

import subprocess
import sys

import pytest

from tests.end_to_end.micro_run import ENVIRONMENT, REPOSITORY, TIMEOUT_S

KILLS = 9  # as many as micro_all.yaml has stages


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_bits(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.end_to_end.chaos", str(tmp_path), str(KILLS), "1", "micro_all.yaml"],
        cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=4 * TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nkill ") + done.stdout.startswith("kill ") == KILLS
    assert "runs, all as if never touched" in done.stdout
