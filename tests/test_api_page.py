"""docs/api.md: its blocks run as they stand there, without ranks and without Megatron."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.huggingface.made_model import write

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
IN_A_SANDBOX = "run_program"
AFTER = """
import sys, torch
assert not torch.distributed.is_initialized()
print(sorted(name for name in ("megatron", "transformers") if name in sys.modules))
"""


def run(blocks: list[str], folder: Path) -> str:
    """In one process, each block with names of its own; what they print."""
    for i, block in enumerate(blocks):
        (folder / f"block{i}.py").write_text(block, encoding="utf-8")
    program = f"import runpy\nfor i in range({len(blocks)}): runpy.run_path(f'block{{i}}.py')\n"
    done = subprocess.run([sys.executable, "-c", program + AFTER], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_blocks_run_without_megatron(tmp_path):
    for name in ("qwen", "qwen_again"):
        write(tmp_path / "models" / name)
    blocks = [block for block in BLOCKS if IN_A_SANDBOX not in block]
    assert len(blocks) == 4
    assert run(blocks, tmp_path) == "[]\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_the_block_of_the_sandbox_runs(tmp_path):
    (block,) = [block for block in BLOCKS if IN_A_SANDBOX in block]
    assert run([block], tmp_path) == "[]\n"


@pytest.mark.parametrize("name", ["rl", "rewards", "curation", "huggingface"])
def test_what_a_package_exports_is_there_and_explained(name):
    package = import_module(f"megatron_r1.{name}")
    for exported in package.__all__:
        assert getattr(package, exported).__doc__, exported
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        package.nonsense  # noqa: B018
