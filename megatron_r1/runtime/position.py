"""Progress file: `logs/progress.json`, rewritten by rank 0, read by the launcher and by `status`.

Ranks write to log files, never to the terminal, so the launcher draws the progress bar from this file. It
also holds the total, which only the running stage knows when the number of steps follows from the epochs.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_r1.files.atomic import write_whole
from megatron_r1.files.run_directory import PROGRESS
from megatron_r1.runtime.env_vars import HEARTBEATS

EVERY_S = 0.1  # at most ten writes a second, even where a step takes a millisecond


@dataclass(frozen=True, slots=True)
class Position:
    """`step` of `total` of a stage or a transfer; tail: the text behind the bar."""

    label: str
    step: int
    total: int
    tail: str


class PositionFile:
    """Writes the progress file; writes nothing in a process that was not launched as a rank."""

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
            self._path = None  # stop writing: a progress bar is worth neither a failure nor repeated warnings


def read(log_dir: Path) -> Position | None:
    """The last position; None before the first, or if the file is damaged."""
    try:
        found = json.loads((log_dir / PROGRESS).read_text(encoding="utf-8"))
        return Position(str(found["label"]), int(found["step"]), int(found["total"]), str(found["tail"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
