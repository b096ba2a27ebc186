"""What the launcher shows: the log through a pipe, and on a terminal a bar that rank 0 feeds."""

import os
import pty
import select
import subprocess
import sys
import time

import pytest

from .conftest import ROOT

BODY = """
from megatron_r1.tracking.progress import Progress
if RANK == 0:
    print("before")
    with Progress(20, "zero", is_main=True) as progress:
        for step in range(1, 21):
            time.sleep(0.15)
            progress.update(step, {"reward": step / 20})
    print("after")
"""


def launcher(script) -> list[str]:
    code = (
        "import os, sys; from pathlib import Path; from megatron_r1.launch.supervisor import run_ranks\n"
        f"sys.exit(run_ranks({script(BODY)!r}, ranks=2, log_dir=Path('logs'), env=os.environ))"
    )
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_a_terminal_gets_a_bar_though_the_rank_writes_into_a_log(script, tmp_path):
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(launcher(script), stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is gone
                break
        elif process.poll() is not None:
            break
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "\u2501" in text, "rich's bar"
    bars = [line for line in text.split("\r") if "\u2501" in line]
    assert any("zero" in line and "reward" in line and "left" in line for line in bars)
    lines = text.replace("\r", "\n").split("\n")
    assert any(line.endswith("before") for line in lines)
    assert any(line.endswith("after") for line in lines)
    assert any("zero 20/20  reward 1  took" in line for line in lines), "the last line stays"
    assert "zero 1/20  " in (tmp_path / "logs" / "rank0.log").read_text(), "the log has plain lines"
    assert not any(line.startswith("zero 1/20  ") for line in lines), "the bar says it"


@pytest.mark.slow
def test_a_pipe_gets_the_log_as_it_is(script, tmp_path):
    done = subprocess.run(launcher(script), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (lines[0], lines[1][:11], lines[-1]) == ("before", "zero 1/20  ", "after")
    assert "\u2501" not in done.stdout
