"""Heartbeat: a small file in which each rank notes its stage and step, read when a run fails or hangs.

The file is `logs/rank<N>.json` in the run directory, rewritten with every step:
{"stage": "zero", "step": 12, "time": 1754000000.0}. The failure report names the rank that fell behind by it.
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
    """A rank's last heartbeat; time is in seconds since the epoch."""

    stage: str
    step: int
    time: float

    def __str__(self) -> str:
        return f"stage {self.stage}, step {self.step}"


_progress = time.monotonic()


def progressed() -> None:
    """Note progress of this process, for the watchdog."""
    global _progress
    _progress = time.monotonic()


def last_progress() -> float:
    """time.monotonic() of the last progress; wall-clock jumps don't matter."""
    return _progress


def beat(stage: str, step: int) -> None:
    """Write this rank's heartbeat; without HEARTBEATS in the environment, only note it for the watchdog."""
    progressed()
    directory = os.environ.get(HEARTBEATS)
    if directory is None:
        return
    path = run_directory.rank_heartbeat(Path(directory), int(os.environ["RANK"]))
    try:
        write_whole(path, json.dumps(asdict(Beat(stage, step, time.time()))), durable=False)
    except OSError as error:  # a passing file system error must not end a run of a thousand ranks
        log.warning("the heartbeat %s could not be written: %s", path, error)


def environment(log_dir: Path) -> Mapping[str, str]:
    """The environment variable that makes a rank's `beat` write into log_dir."""
    return {HEARTBEATS: str(log_dir.resolve())}


def read(log_dir: Path, rank: int) -> Beat | None:
    """A rank's last heartbeat; None before its first, or if the file is damaged (after a full disk)."""
    try:
        found = parse_json(run_directory.rank_heartbeat(log_dir, rank).read_bytes())
        return record_of(Beat, found, where="", error=DataError, remedy="")
    except (FileNotFoundError, NotJson, DataError):
        return None


def forget(log_dir: Path) -> None:
    """Remove the heartbeats of an earlier launch."""
    for path in (*run_directory.heartbeats(log_dir).values(), log_dir / run_directory.PROGRESS):
        path.unlink(missing_ok=True)
