"""The launcher's output: rank 0's log as it grows and, on a terminal, a progress bar below it.

The log also gets a plain progress line now and then. A terminal has the bar instead, so these lines are left
out there, except for the last one of a stage.
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
    """Copies a log file, from byte `start` on, to the standard output with each `show`."""

    def __init__(self, log_path: Path, *, start: int) -> None:
        self._path, self._position = log_path, start
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_open = True
        console = Console(file=sys.stdout)
        has_bar = console.is_terminal and not console.is_dumb_terminal
        self._bar = _Bar(console) if has_bar else None

    def show(self) -> None:
        """Print what is new. A closed terminal or `| head` does not end a run: the log file is complete."""
        if not self._is_open:
            return
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                added = file.read()
        except FileNotFoundError:  # someone removed the log or the run directory; the ranks report it
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
            self._is_open = False

    def close(self) -> None:
        """Stop showing and remove the bar, so that the launcher's next message stands alone."""
        if self._bar is not None and self._is_open:
            with contextlib.suppress(OSError):  # the terminal was closed first
                self._bar.close()
        self._is_open = False


class _Bar:
    """A progress bar below the log lines, redrawn by `show`: no thread of its own."""

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
        self._unfinished = ""  # the log's last line, as far as it is written
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
                visible=now.step < now.total,  # the last progress line of a stage is printed instead
            )
            self._progress.refresh()

    def close(self) -> None:
        self._progress.stop()
        if self._unfinished:
            self._print(self._unfinished)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _is_progress(line: str, now: Position | None) -> bool:
    """Whether the bar shows this line: a progress line of the stage that is not its last."""
    found = re.match(r"(\S+) (\d+)/(\d+)  ", line)
    return found is not None and now is not None and found[1] == now.label and int(found[2]) < int(found[3])
