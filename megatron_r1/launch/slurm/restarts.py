"""Restarts of a SLURM job: `python -m megatron_r1.launch.slurm.restarts begin|end RUN_DIR STAGE`.

The job script calls `begin` before its ranks and `end ... CODE MAX_RESTARTS` after them. `end` prints the
failure report and exits with 0 (done), 75 (put the job back into the queue) or the code of the failure. A job
that was asked to stop goes back into the queue. So does one that failed, unless it failed at the same step
before or with an error that a retry can't fix.
"""

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_r1.errors import CheckpointError, ConfigError, DataError, GateError, Interrupted
from megatron_r1.files import run_directory
from megatron_r1.files.json_reader import NotJson, parse_json, record_of
from megatron_r1.launch import failure_report
from megatron_r1.launch.failure_report import Death
from megatron_r1.launch.slurm import jobs
from megatron_r1.runtime import heartbeat

log = logging.getLogger(__name__)

NOT_RETRIED = {error.exit_code for error in (ConfigError, DataError, CheckpointError, GateError)}
_FAILED_TASK = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): (.+)")
_EXIT = re.compile(r"Exited with exit code (\d+)")


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a job; restart counts from 0."""

    job: str
    restart: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a start ended: outcome is done, interrupted or failed; step is the stage's last."""

    stage: str
    job: str
    restart: int
    outcome: str
    code: int
    step: int
    nodes: str
    time: float


def current(slurm: Mapping[str, str]) -> Start:
    """This start, from SLURM's environment variables."""
    return Start(slurm["SLURM_JOB_ID"], int(slurm.get("SLURM_RESTART_COUNT", "0")))


def mark_interrupted(run_dir: Path, this: Start) -> None:
    _mark(run_dir).write_text(json.dumps(asdict(this)))


def attempts(run_dir: Path) -> list[Attempt]:
    """Every start that has ended, of all stages, in order of time."""
    path = jobs.folder(run_dir) / run_directory.ATTEMPTS
    if not path.exists():
        return []
    found = [_attempt(line, where=f"{path}:{n}") for n, line in enumerate(path.read_bytes().splitlines(), 1)]
    return [attempt for attempt in found if attempt is not None]


def _attempt(line: bytes, *, where: str) -> Attempt | None:
    """The attempt of one line; None where the job was killed while it wrote the line."""
    try:
        return record_of(Attempt, parse_json(line), where=where, error=DataError, remedy="it is left out")
    except (NotJson, DataError) as error:
        log.warning("%s: no record of an attempt: %s", where, error)
        return None


def begin(run_dir: Path, stage: str, this: Start) -> None:
    """Print which start this is, and remove the heartbeats and the mark of earlier ones."""
    (run_dir / run_directory.LOGS).mkdir(exist_ok=True)
    heartbeat.forget(run_dir / run_directory.LOGS)
    _mark(run_dir).unlink(missing_ok=True)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    _say(f"stage {stage}, job {this.job}, restart {this.restart}, on {_nodes()}, {now}")


def end(run_dir: Path, stage: str, this: Start, *, code: int, max_restarts: int) -> int:
    """Record how the start ended; returns the job's exit code, 75 to go back into the queue."""
    before = [one for one in attempts(run_dir) if one.stage == stage and one.job == this.job]
    interrupted = code == 0 and _is_marked(run_dir, this)
    outcome = "interrupted" if interrupted else "failed" if code else "done"
    found = Attempt(stage, this.job, this.restart, outcome, code, _step(run_dir), _nodes(), time.time())
    with (jobs.folder(run_dir) / run_directory.ATTEMPTS).open("a") as file:
        file.write(json.dumps(asdict(found)) + "\n")
    if outcome == "done":
        _say(f"stage {stage} is done")
        return 0
    if outcome == "failed":
        _say(_describe(run_dir, stage, code))
    refusal = _refusal(found, before, max_restarts=max_restarts)
    if refusal is None:
        _say(f"stage {stage} goes on from its newest checkpoint (restart {this.restart + 1})")
        return Interrupted.exit_code
    _say(f"error: stage {stage} {outcome} at step {found.step}: {refusal}")
    return code or Interrupted.exit_code + 1


def _refusal(found: Attempt, before: list[Attempt], *, max_restarts: int) -> str | None:
    """Why the job is not put back into the queue; None if it is."""
    if found.outcome == "failed" and found.code in NOT_RETRIED:
        return "another try would end the same way; mend what the message says, then submit again"
    same = [one for one in before if one.outcome == "failed" and one.step == found.step]
    if found.outcome == "failed" and same:
        return f"the second time at this step (before: {same[-1].nodes}, now: {found.nodes}); not tried again"
    if found.restart >= max_restarts:
        return f"slurm.max_restarts = {max_restarts} is used up; submit again to go on"
    return None


def _describe(run_dir: Path, stage: str, code: int) -> str:
    """The failure report, from srun's messages about its tasks."""
    log_dir = run_dir / run_directory.LOGS
    spoken = (run_directory.job_file(run_dir, stage, "srun")).read_text()
    nodes: dict[int, str] = {}
    deaths = []
    for node, ranks, ending in _FAILED_TASK.findall(spoken):
        for rank in _ranks(ranks):
            nodes[rank] = node
            deaths.append(Death(rank, _returncode(ending), _log_end(log_dir, rank)))
    blamed = failure_report.culprit(deaths)
    if blamed is None:  # no task failed: srun failed, or a node was lost
        return f"{spoken}error: srun ended with {code}; its own words are above"
    total = int(os.environ.get("SLURM_NTASKS", len(deaths)))
    return spoken + failure_report.describe(
        blamed, deaths=deaths, log_dir=log_dir, oom_kills=0, host=nodes[blamed.rank], ranks=total
    )


def _ranks(text: str) -> list[int]:
    """Ranks from srun's notation, such as "0-2,5"."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _returncode(ending: str) -> int:
    """subprocess's return code. srun names a signal as strsignal(3) does, perhaps with "(core dumped)"."""
    exited = _EXIT.search(ending)
    if exited is not None:
        return int(exited[1])
    signals = {signal.strsignal(number): -number for number in signal.valid_signals()}
    return signals.get(ending.split(" (")[0], 1)


def _log_end(log_dir: Path, rank: int) -> str:
    """The last lines of the rank's log that this start wrote."""
    path = run_directory.rank_log(log_dir, rank)
    if not path.exists():
        return ""
    before, header, after = failure_report.read_end(path, start=0).rpartition("=== rank ")
    return after.partition("\n")[2] if header else before or after


def _step(run_dir: Path) -> int:
    """The step of the furthest rank; 0 before its first."""
    log_dir = run_dir / run_directory.LOGS
    beats = [heartbeat.read(log_dir, rank) for rank in run_directory.heartbeats(log_dir)]
    return max((beat.step for beat in beats if beat is not None), default=0)


def _mark(run_dir: Path) -> Path:
    return jobs.folder(run_dir) / run_directory.INTERRUPTED


def _is_marked(run_dir: Path, this: Start) -> bool:
    path = _mark(run_dir)
    try:
        return path.exists() and parse_json(path.read_bytes()) == asdict(this)
    except NotJson:  # the job was killed while it wrote the file
        return False


def _nodes() -> str:
    return os.environ.get("SLURM_JOB_NODELIST", "this machine")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(words: list[str]) -> int:
    verb, run_dir, stage, *numbers = words
    this = current(os.environ)
    if verb == "begin":
        begin(Path(run_dir), stage, this)
        return 0
    code, max_restarts = map(int, numbers)
    return end(Path(run_dir), stage, this, code=code, max_restarts=max_restarts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
