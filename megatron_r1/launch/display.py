"""What the launcher shows of rank 0: its log as it grows and, on a terminal, its progress as a bar below.

The log has a plain line of progress now and then, for whoever reads it later; on a terminal the bar says the
same, so those lines are left out there, but for the last of a stage.
"""

import codecs
import contextlib
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from megatron_r1.runtime import position
from megatron_r1.runtime.position import Position


class Display:
    """A log file from byte `start` on, copied to the standard output with each `show`."""

    def __init__(self, log_path: Path, *, start: int) -> None:
        self._path, self._position = log_path, start
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._there = True
        console = Console(file=sys.stdout)
        has_bar = console.is_terminal and not console.is_dumb_terminal
        self._bar = _Bar(console) if has_bar else None

    def show(self) -> None:
        """What is new. A closed terminal or `| head` does not end a run; the log file has it all."""
        if not self._there:
            return
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                added = file.read()
        except FileNotFoundError:  # someone removed it, or the whole run directory: the ranks say so
            return
        self._position += len(added)
        text = self._decoder.decode(added)
        try:
            if self._bar is None:
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                self._bar.show(text, position.read(self._path.parent))
        except OSError:
            self._there = False

    def close(self) -> None:
        """Nothing more is shown, and the bar is gone: what the launcher says next stands alone."""
        if self._bar is not None and self._there:
            with contextlib.suppress(OSError):  # the terminal went first
                self._bar.close()
        self._there = False


class _Bar:
    """Log lines above, the bar below. It is drawn as `show` is called: no thread runs beside the ranks."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tail]}", markup=False),
        )
        self._progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
        self._task = self._progress.add_task("", total=None, visible=False, tail="")
        self._shown: Position | None = None
        self._unfinished = ""  # of the log's last line
        self._progress.start()

    def show(self, text: str, now: Position | None) -> None:
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            if not _is_progress(line, now):
                self._print(line)
        if now is not None and now != self._shown:
            self._shown = now
            self._progress.update(
                self._task,
                description=now.label,
                completed=now.step,
                total=now.total,
                tail=now.tail,
                visible=now.step < now.total,  # the log's last line of the stage says the rest
            )
            self._progress.refresh()

    def close(self) -> None:
        self._progress.stop()
        if self._unfinished:
            self._print(self._unfinished)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _is_progress(line: str, now: Position | None) -> bool:
    """Whether the bar says it: a line of a stage's progress that is not its last."""
    found = re.match(r"(\S+) (\d+)/(\d+)  ", line)
    return found is not None and now is not None and found[1] == now.label and int(found[2]) < int(found[3])
