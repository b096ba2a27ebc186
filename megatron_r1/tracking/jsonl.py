"""metrics.jsonl, a line a step: the source of truth. It is always written, and its errors may stop a run."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from megatron_r1.files.run_directory import METRICS
from megatron_r1.tracking import step_log
from megatron_r1.tracking.tracker import StageInfo, Tracker

log = logging.getLogger(__name__)


class JsonLines(Tracker):
    """Writes the file of a stage's directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / METRICS

    def start(self, info: StageInfo) -> None:
        """Cut the file back, with a warning where lines of steps that stay are gone."""
        step = info.kept_step
        last = step_log.truncate_after(self.path, step)
        if 0 <= last < step or (last < 0 < step):
            log.warning(
                "%s: it ends at step %d, and the stage goes on from step %d: the lines between are lost",
                self.path,
                max(last, 0),
                step,
            )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a step's numbers; OSError where the file can't be written."""
        step_log.append(self.path, [{"step": step, **{k: float(v) for k, v in metrics.items()}}])

    def sync(self) -> None:
        """All that was written is on the disk when this returns."""
        step_log.sync(self.path)


def read_metrics(path: Path) -> Iterator[dict[str, float]]:
    """The lines of a metrics.jsonl, each with its "step"."""
    return step_log.read(path)
