"""Where a run is: `logs/progress.json`, rewritten by rank 0 as it goes, read by the launcher and by `status`.

A rank writes into a log, never to the terminal, so it is the launcher that draws the bar. The file also holds
what only the running stage knows: how many steps an epoch makes.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_r1.files.atomic import write_whole
from megatron_r1.files.run_directory import PROGRESS
from megatron_r1.runtime.env_vars import HEARTBEATS

EVERY_S = 0.1  # a stage whose steps take a millisecond doesn't write a thousand files a second


@dataclass(frozen=True, slots=True)
class Position:
    """`step` of `total` of a stage or a transfer; tail: the words behind the bar."""

    label: str
    step: int
    total: int
    tail: str


class PositionFile:
    """The file of this process; nothing is written in one that was not launched as a rank."""

    def __init__(self) -> None:
        folder = os.environ.get(HEARTBEATS)
        self._path = None if folder is None else Path(folder, PROGRESS)
        self._written = -EVERY_S

    def write(self, position: Position) -> None:
        now = time.monotonic()
        if self._path is None or (now - self._written < EVERY_S and position.step < position.total):
            return
        self._written = now
        try:
            write_whole(self._path, json.dumps(asdict(position)), durable=False)
        except OSError:
            self._path = None  # a bar is not worth a run, nor a warning a step


def read(log_dir: Path) -> Position | None:
    """The last position; None before the first, and where the file holds none."""
    try:
        found = json.loads((log_dir / PROGRESS).read_text(encoding="utf-8"))
        return Position(str(found["label"]), int(found["step"]), int(found["total"]), str(found["tail"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
