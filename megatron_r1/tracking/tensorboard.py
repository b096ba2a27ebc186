"""TensorBoard event files, written synchronously and without torch or TensorFlow.

torch's SummaryWriter does the same behind a thread, which hides a full disk until some later call.
"""

import os
import socket
import time
from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from megatron_r1.files.run_directory import TENSORBOARD
from megatron_r1.tracking.tracker import Outcome, StageInfo, Tracker, TrackerConfig


class TensorBoard(TrackerConfig):
    """Event files in the folder tensorboard of the stage's directory."""

    def build(self) -> "EventFile":
        return EventFile()


TRACKER = TensorBoard


class EventFile(Tracker):
    """One event file of this process, opened with the first event."""

    def __init__(self) -> None:
        self._writer: RecordWriter | None = None

    def start(self, info: StageInfo) -> None:
        """Tell TensorBoard to drop what earlier files of the directory hold of the steps that come again."""
        self._directory = info.directory / TENSORBOARD
        if self._directory.exists():
            restart = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=time.time(), step=info.kept_step + 1, session_log=restart))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a step's scalars; raises OSError if the file can't be written."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def finish(self, outcome: Outcome) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, event: Event) -> None:
        writer = self._writer or self._open()
        writer.write(event.SerializeToString())
        writer.flush()

    def _open(self) -> RecordWriter:
        self._directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((self._directory / name).open("wb"))
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        return self._writer
