"""Programs in the sandbox, with limits that they meet in a moment."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from megatron_r1.rewards.coding.sandbox.limits import MIB, Limits
from megatron_r1.rewards.coding.sandbox.run import Ran, run_program

SMALL = Limits(
    cpu_s=10.0, wall_s=60.0, memory_bytes=128 * MIB, processes=16, disk_bytes=8 * MIB, files=64,
    file_bytes=4 * MIB, output_bytes=64 << 10,
)  # fmt: skip

needs_sandbox = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture
def run() -> Callable[..., Ran]:
    """A program under SMALL limits, some of them changed."""

    def run_(source: str, stdin: str = "", **changed: Any) -> Ran:
        return run_program(source, {"function": None}, stdin, limits=replace(SMALL, **changed))

    return run_
