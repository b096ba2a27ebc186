"""Ranks for the tests: small Python scripts, real processes that do not import torch."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from megatron_r1.runtime.heartbeat import beat
RANK = int(os.environ["RANK"])
Path(f"rank{RANK}.pid").write_text(str(os.getpid()))
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Writes a script that starts with PRELUDE, and gives the command that runs it in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def write(body: str) -> list[str]:
        path = tmp_path / "ranks_of_a_test.py"
        path.write_text(PRELUDE + textwrap.dedent(body))
        return [sys.executable, str(path)]

    return write


@pytest.fixture
def launcher(tmp_path):
    """Starts run_ranks as a process of its own, to send signals to; its output goes to launcher.log."""
    started = []

    def start(command: list[str], *, ranks: int) -> subprocess.Popen:
        code = (
            "import os, sys; from pathlib import Path; from megatron_r1.launch.supervisor import run_ranks\n"
            f"sys.exit(run_ranks({command!r}, ranks={ranks}, log_dir=Path('logs'), env=os.environ))"
        )
        with open(tmp_path / "launcher.log", "wb") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", code], stdout=output, stderr=output, preexec_fn=_as_from_a_terminal
                )
            )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def _as_from_a_terminal() -> None:
    """A gate under nohup, or in the background of a script, would hand on signals that are ignored."""
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)


def wait_for(condition, *, timeout_s=20.0):
    """Wait until condition() is true; its last value is what the caller asserts."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def pids(directory: Path) -> list[int]:
    return [int(path.read_text()) for path in directory.glob("*.pid") if path.read_text()]
