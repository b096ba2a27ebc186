"""Progress of bytes: a bar with GB, GB/s and the time left on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from megatron_r1.tracking.progress import duration


class Transfer:
    """with Transfer("import", is_main=True) as transfer: transfer.update(done_bytes, total_bytes)."""

    def __init__(
        self,
        label: str,
        *,
        is_main: bool = True,
        interval_s: float = 5.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._is_main, self._interval_s, self._clock = label, is_main, interval_s, clock
        self._console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._begun = self._printed = clock()
        self._finished = False
        self._start: int | None = None  # done before this process began

    def __enter__(self) -> "Transfer":
        if self._is_main and self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[tail]}"),
                console=self._console,
            )
            self._bar.add_task(self._label, total=None, tail="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """Bytes written so far, by all ranks, and in all."""
        if not self._is_main:
            return
        if self._start is None:
            self._start = done if done < total else 0
        done = min(done, total)
        tail = self._tail(done, total)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, tail=tail)
        elif not self._finished and (done >= total or self._clock() - self._printed >= self._interval_s):
            self._printed, self._finished = self._clock(), done >= total
            self._console.print(f"{self._label}  {tail}", soft_wrap=True, markup=False, highlight=False)

    def _tail(self, done: int, total: int) -> str:
        elapsed_s = max(self._clock() - self._begun, 1e-9)
        rate = (done - (self._start or 0)) / elapsed_s
        amount = f"{done / 1e9:.2f}/{total / 1e9:.2f} GB  {rate / 1e9:.2f} GB/s"
        if done >= total:
            return f"{amount}  took {duration(elapsed_s)}"
        return f"{amount}  left {duration((total - done) / rate) if rate > 0 else '-'}"
