"""One progress line with the time that is left: a bar on a terminal, a plain line now and then in a log.

A rank writes into a log; its launcher, which has the terminal, draws the bar from runtime/position.py's file.
"""

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from megatron_r1.runtime.position import Position, PositionFile


class Progress:
    """Progress of a stage of `total` steps, of which `start` were done before this process began.

    with Progress(150, "zero", is_main=replicas.is_main) as progress:
        progress.update(step, {"reward": 0.4, "length": 21.5})
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        start: int = 0,
        is_main: bool = True,
        interval_s: float = 5.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._label, self._start = total, label, start
        self._is_main, self._interval_s, self._clock = is_main, interval_s, clock
        self._console = console or Console(stderr=True)
        self._begun = clock()
        self._printed: float | None = None
        self._bar: Bar | None = None
        self._has_bar = is_main and self._console.is_terminal
        self._file = PositionFile() if is_main else None

    def __enter__(self) -> "Progress":
        if self._has_bar:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[tail]}"),
            )
            self._bar = Bar(*columns, console=self._console)
            self._bar.add_task(self._label, total=self._total, completed=self._start, tail="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, total: int) -> None:
        """The steps are known now."""
        self._total = total
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=total)

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """`step` steps are done; shows the values and the time left at the pace so far."""
        if not self._is_main:
            return
        tail = "  ".join(
            [*(f"{name} {value:.3g}" for name, value in (values or {}).items()), self._left(step)]
        )
        if self._file is not None:
            self._file.write(Position(self._label, step, self._total, tail))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, tail=tail)
        elif self._is_due(step):
            self._printed = self._clock()
            self._console.print(
                f"{self._label} {step}/{self._total}  {tail}", soft_wrap=True, markup=False, highlight=False
            )

    def _is_due(self, step: int) -> bool:
        if self._printed is None or step >= self._total:
            return True
        return self._clock() - self._printed >= self._interval_s

    def _left(self, step: int) -> str:
        elapsed_s = self._clock() - self._begun
        if step >= self._total:
            return f"took {duration(elapsed_s)}"
        if step <= self._start:
            return "left -"
        return f"left {duration(elapsed_s / (step - self._start) * (self._total - step))}"


def duration(seconds: float) -> str:
    """42 s, 3 min 20 s, 5 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
