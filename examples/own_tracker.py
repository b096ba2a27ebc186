"""Your own tracker: the metrics of every step as a CSV file in the stage's directory.

A tracker is a section of the configuration that builds an object with `start`, `log` and, where it needs
them, `samples` and `finish`. It is called as its file: `trackers: {own_tracker: {}}`. See own_tracker.yaml.
It runs on the main rank alone and only looks on: one that raises is left out with a warning.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from megatron_r1.tracking.tracker import Outcome, StageInfo, Tracker, TrackerConfig


class CsvFile(Tracker):
    def __init__(self, name: str) -> None:
        self.name = name
        self.file: TextIO | None = None

    def start(self, info: StageInfo) -> None:
        """A stage that goes on from a checkpoint writes what came after `kept_step` again."""
        path = info.directory / self.name
        kept = [row for row in rows(path) if int(row[0]) <= info.kept_step]
        self.file = path.open("w", newline="")
        csv.writer(self.file).writerows([["step", "metric", "value"], *kept])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        assert self.file is not None
        csv.writer(self.file).writerows([step, name, value] for name, value in metrics.items())
        self.file.flush()

    def finish(self, outcome: Outcome) -> None:
        """outcome: finished, interrupted (it will go on) or failed."""
        if self.file is not None:
            self.file.close()


def rows(path: Path) -> list[list[str]]:
    """What an earlier start of the stage left."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if len(row) == 3][1:]  # a kill may have cut the last


class OwnTracker(TrackerConfig):
    """A line a metric and step, for a spreadsheet."""

    name: str = "metrics.csv"
    """The file in the stage's directory."""

    def build(self) -> CsvFile:
        return CsvFile(self.name)


TRACKER = OwnTracker
