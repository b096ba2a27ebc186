"""The micro chain on the private cluster: submitted with the command line, watched until it ends."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.end_to_end.micro_run import CONFIG, ENVIRONMENT, REPOSITORY

LAYOUT = ("layout.ranks=4", "layout.expert=2")
CLUSTER = ("slurm.ranks_per_node=2", "slurm.gpus_per_node=0", "slurm.cpus_per_rank=1", "slurm.time=00:10:00",
           "slurm.warning_s=60")  # fmt: skip
TIMEOUT_S = 300.0


class Cluster:
    """The command line with SLURM_CONF set."""

    def __init__(self, conf: Path) -> None:
        # GLOO_SOCKET_IFNAME: the two nodes are one machine, whose name may resolve to nothing
        self.env = {**ENVIRONMENT, "SLURM_CONF": str(conf), "GLOO_SOCKET_IFNAME": "lo"}
        self.env.pop("MEGATRON_R1_SITE", None)

    def call(self, *words: str, expect: int = 0) -> str:
        """`megatron-r1 WORDS`; asserts the exit code, returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "megatron_r1", *words],
            cwd=REPOSITORY, env=self.env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == expect, output
        return output

    def submit(self, run_dir: Path, *words: str, expect: int = 0) -> str:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        return self.call("submit", str(CONFIG), "--run-dir", str(run_dir), *CLUSTER, *words, expect=expect)

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
            time.sleep(0.1)

    def wait_for_end(self, run_dir: Path, *jobs: int) -> list[str]:
        """The states that the jobs ended in."""
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        self.wait(lambda: all(self.state(job) in over for job in jobs), f"the end of {jobs}", run_dir=run_dir)
        return [self.state(job) for job in jobs]


def everything(run_dir: Path) -> str:
    """All that the jobs and ranks wrote, for a failed assertion."""
    paths = [*sorted((run_dir / "slurm").glob("*.log")), *sorted((run_dir / "logs").glob("*.log"))]
    return "\n".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in paths)


def job_log(run_dir: Path, stage: str) -> str:
    return (run_dir / "slurm" / f"{stage}.log").read_text()
