"""Where a run is: `logs/progress.json`, rewritten by rank 0 as it goes, read by the launcher and by `status`.

A rank writes into a log, never to the terminal, so it is the launcher that draws the bar. The file also holds
what only the running stage knows: how many steps an epoch makes.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_r1.runtime.env_vars import HEARTBEATS

NAME = "progress.json"
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
        self._path = None if folder is None else Path(folder, NAME)
        self._written = -EVERY_S

    def write(self, position: Position) -> None:
        now = time.monotonic()
        if self._path is None or (now - self._written < EVERY_S and position.step < position.total):
            return
        self._written = now
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps(asdict(position)))
            new.replace(self._path)  # readers never see half a file
        except OSError:
            self._path = None  # a bar is not worth a run, nor a warning a step


def read(log_dir: Path) -> Position | None:
    """The last position; None before the first, and where the file holds none."""
    try:
        found = json.loads((log_dir / NAME).read_text(encoding="utf-8"))
        return Position(str(found["label"]), int(found["step"]), int(found["total"]), str(found["tail"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
