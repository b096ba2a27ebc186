"""SLURM's commands (sbatch, squeue, scancel, scontrol): runs them, parses their output, reports their errors.

No slurmdbd is needed: squeue lists the jobs that the controller still remembers (MinJobAge, five minutes by
default), and the run directory records the earlier ones.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_r1.errors import R1Error

TIMEOUT_S = 60.0
PING_S = 15.0
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
         "PREEMPTED", "REVOKED", "TIMEOUT"}  # fmt: skip


class SlurmError(R1Error):
    """SLURM refused a command, did not answer, or is not installed."""

    exit_code = 8


@dataclass(frozen=True, slots=True)
class Job:
    """A line of squeue(1): the job's state, the reason why it waits or ended, its nodes."""

    id: int
    state: str
    reason: str
    elapsed: str
    nodes: str

    @property
    def live(self) -> bool:
        return self.state not in ENDED


def available() -> bool:
    """Whether this machine can submit."""
    return shutil.which("sbatch") is not None


def unreachable() -> str | None:
    """Why SLURM can't be used from this machine; None if it can."""
    if not available():
        return "no sbatch on this machine"
    try:
        done = _run(["scontrol", "ping"], timeout_s=PING_S)
    except SlurmError as error:
        return str(error)
    if done.returncode == 0 and " UP" in done.stdout:
        return None
    return f"no controller answers (scontrol ping: {_words(done.stderr or done.stdout)})"


def submit(script: Path, *, after: int | None, hold: bool) -> int:
    """Submit a script; returns the job's id. after: a job that must succeed first; hold: until `release`."""
    words = ["sbatch", "--parsable"]
    if after is not None:
        words += [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"]
    if hold:
        words.append("--hold")
    return int(_call([*words, str(script)]).split(";")[0])


def address_of_first(nodes: str) -> str:
    """The address of the first of `nodes`, a list in SLURM's short form. The name itself may not resolve."""
    first = _call(["scontrol", "show", "hostnames", nodes]).split()[0]
    return _call(["scontrol", "show", "node", "--oneliner", first]).split("NodeAddr=")[1].split()[0]


def would_start(script: str) -> str:
    """When and where the script's job would start; SlurmError with SLURM's own words if it can't."""
    done = _run(["sbatch", "--test-only"], text=script)
    if done.returncode:
        raise SlurmError(f"SLURM can't run this: {_words(done.stderr)}; change the slurm: section")
    return _words(done.stderr)


def release(job: int) -> None:
    _call(["scontrol", "release", str(job)])


def cancel(jobs: Sequence[int]) -> None:
    if jobs:
        _call(["scancel", *map(str, jobs)])


def states(jobs: Sequence[int]) -> dict[int, Job]:
    """These jobs by id, as squeue sees them; jobs that it has forgotten are left out."""
    if not jobs:
        return {}
    # squeue fails if the only id is unknown; among known ids it ignores an unknown one
    done = _run(["squeue", "--noheader", "--states=all", f"--jobs={','.join(map(str, jobs))}",
                 "--Format=JobID:|,State:|,Reason:|,TimeUsed:|,NodeList:|"])  # fmt: skip
    if done.returncode and "Invalid job id" in done.stderr:
        return {}
    if done.returncode:
        raise SlurmError(f"squeue failed: {_words(done.stderr)}")
    found = {}
    for line in done.stdout.splitlines():
        number, state, reason, elapsed, nodes = line.split("|")[:5]
        found[int(number)] = Job(int(number), state, reason, elapsed, nodes)
    return found


def _call(words: Sequence[str]) -> str:
    done = _run(words)
    if done.returncode:
        raise SlurmError(f"{' '.join(words)}: {_words(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def _run(
    words: Sequence[str], *, text: str = "", timeout_s: float = TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, input=text, capture_output=True, text=True, timeout=timeout_s)
    except FileNotFoundError:
        raise SlurmError(f"{words[0]}: not found; run this on a login node of a SLURM cluster") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"{words[0]}: no answer in {timeout_s:.0f} s; is slurmctld up (scontrol ping)?"
        ) from None


def _words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in lines)
