"""Where each rank is: a small file that it rewrites with every step, read when something goes wrong.

A hang or a death without a named culprit costs hours on a cluster, so the launcher prints these. The file is
`logs/rank<N>.json` in the run directory: {"stage": "zero", "step": 12, "time": 1754000000.0}.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_r1.errors import DataError
from megatron_r1.files import run_directory
from megatron_r1.files.atomic import write_whole
from megatron_r1.files.json_reader import NotJson, parse_json, record_of
from megatron_r1.runtime.env_vars import HEARTBEATS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Beat:
    """The last sign of life of a rank; time is in seconds since the epoch."""

    stage: str
    step: int
    time: float

    def __str__(self) -> str:
        return f"stage {self.stage}, step {self.step}"


_progress = time.monotonic()


def progressed() -> None:
    """Note that this process got somewhere, for the watchdog."""
    global _progress
    _progress = time.monotonic()


def last_progress() -> float:
    """time.monotonic() of it: a clock that jumps stops nobody."""
    return _progress


def beat(stage: str, step: int) -> None:
    """Note where this rank is. Nothing is written in a process that was not launched as a rank."""
    progressed()
    directory = os.environ.get(HEARTBEATS)
    if directory is None:
        return
    path = run_directory.rank_heartbeat(Path(directory), int(os.environ["RANK"]))
    try:
        write_whole(path, json.dumps(asdict(Beat(stage, step, time.time()))), durable=False)
    except OSError as error:  # a file system that hiccups must not end a run of a thousand ranks
        log.warning("the heartbeat %s could not be written: %s", path, error)


def environment(log_dir: Path) -> Mapping[str, str]:
    """The environment that makes a rank's `beat` write into log_dir."""
    return {HEARTBEATS: str(log_dir.resolve())}


def read(log_dir: Path, rank: int) -> Beat | None:
    """The last beat of a rank; None before its first, and where a file holds none (a disk that was full)."""
    try:
        found = parse_json(run_directory.rank_heartbeat(log_dir, rank).read_bytes())
        return record_of(Beat, found, where="", error=DataError, remedy="")
    except (FileNotFoundError, NotJson, DataError):
        return None


def forget(log_dir: Path) -> None:
    """Remove the beats of an earlier launch, so that they are not taken for this one's."""
    for path in (*run_directory.heartbeats(log_dir).values(), log_dir / run_directory.PROGRESS):
        path.unlink(missing_ok=True)
