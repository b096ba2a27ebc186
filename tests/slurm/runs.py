"""The micro chain on the private cluster: submitted with the command line, watched until it ends."""

import getpass
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.end_to_end.micro_run import CONFIG, ENVIRONMENT, REPOSITORY

LAYOUT = ("layout.ranks=4", "layout.expert=2")  # two nodes with two ranks each
SMALL = ("layout.ranks=2", "slurm.ranks_per_node=1")  # two nodes with one rank each
CLUSTER = ("slurm.ranks_per_node=2", "slurm.gpus_per_node=0", "slurm.cpus_per_rank=1", "slurm.time=00:10:00",
           "slurm.warning_s=60")  # fmt: skip
TIMEOUT_S = 900.0  # the chain takes 40 s on two idle cores, and many times that on busy ones


class Cluster:
    """The command line with SLURM_CONF set."""

    def __init__(self, conf: Path) -> None:
        # GLOO_SOCKET_IFNAME: the two nodes are one machine, whose name may resolve to nothing
        self.env = {**ENVIRONMENT, "SLURM_CONF": str(conf), "GLOO_SOCKET_IFNAME": "lo"}
        self.env.pop("MEGATRON_R1_SITE", None)
        self.watched: list[str] = []  # what `status` said while the runs of the `runs` fixture went on

    def call(self, *words: str, expect: int = 0, cwd: Path = REPOSITORY) -> str:
        """`megatron-r1 WORDS`; asserts the exit code, returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "megatron_r1", *words],
            cwd=cwd, env=self.env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == expect, output
        return output

    def submit(self, run_dir: Path, *words: str, expect: int = 0, cwd: Path = REPOSITORY) -> str:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        words = ("submit", str(CONFIG), "--run-dir", str(run_dir), *CLUSTER, *words)
        return self.call(*words, expect=expect, cwd=cwd)

    def slurm(self, *words: str) -> str:
        """A program of SLURM's own."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: int) -> str:
        return self.slurm("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def wait(self, condition: Callable[[], bool], what: str, *, run_dir: Path) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}:\n{everything(run_dir)}"
            time.sleep(0.5)

    def is_over(self, job: int) -> bool:
        return self.state(job) in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}

    def wait_for_end(self, run_dir: Path, *jobs: int) -> list[str]:
        """The states that the jobs ended in."""
        self.wait(lambda: all(map(self.is_over, jobs)), f"the end of {jobs}", run_dir=run_dir)
        return [self.state(job) for job in jobs]

    def watch(self, run_dir: Path, *, until: Callable[[], bool]) -> list[str]:
        """What `status` says, again and again, until the condition holds."""
        seen: list[str] = []

        def look() -> bool:
            seen.append(self.call("status", str(run_dir)))
            return until()

        self.wait(look, "the runs", run_dir=run_dir)
        return seen

    def cancel_all(self) -> None:
        """End what a failed test left in the queue, and wait for it to be gone."""
        self.slurm("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 60
        while self.slurm("squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(0.2)


def job_ids(run_dir: Path) -> dict[str, int]:
    """The run's jobs by stage."""
    entries = json.loads((run_dir / "slurm" / "jobs.json").read_text())
    return {entry["stage"]: entry["job"] for entry in entries}


def everything(run_dir: Path) -> str:
    """All that the jobs and ranks wrote, for a failed assertion."""
    paths = [*sorted((run_dir / "slurm").glob("*.log")), *sorted((run_dir / "logs").glob("*.log"))]
    return "\n".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in paths)


def job_log(run_dir: Path, stage: str) -> str:
    return (run_dir / "slurm" / f"{stage}.log").read_text()
