"""Measures memory, processes and CPU time of a whole sandbox, which rlimits count for single processes only.

The sandbox's own /proc lists only its processes; it is read from outside, through the root directory of the
first process. A program can neither hide from it nor slow it down: RLIMIT_NPROC bounds the number of entries.

Where the machine allows a control group (cgroup.py), that counts the rest. Without one, the CPU time of a
child that nobody waits for is lost when it ends, except for what the last measurement saw.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_r1.rewards.coding.sandbox.cgroup import Group
from megatron_r1.rewards.coding.sandbox.command import DRIVER
from megatron_r1.rewards.coding.sandbox.limits import Limits

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PIPE_BYTES = 16 * PAGE_BYTES  # the capacity of a pipe; seccomp.py refuses a larger one
SOCKET_BYTES = (
    320 << 10
)  # and a stream socket: net.core.wmem_default, once more half of it in its last message
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)
OWN = 2  # bubblewrap's first process and, for a moment, prlimit


class NotBuilt(OSError):
    """The sandbox's first process has not entered it yet, so the program doesn't run yet."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of all processes of a sandbox; cpu_s includes those that have ended."""

    cpu_s: float
    memory_bytes: int
    processes: int


NOTHING = Usage(0.0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Process:
    """own_s: its CPU seconds; reaped_s: of the children that it waited for. key: unique over time."""

    name: str
    key: tuple[str, int]
    own_s: float
    reaped_s: float
    resident_bytes: int


@dataclass(slots=True)
class Watch:
    """Measures one sandbox. first_pid: its first process's id outside the sandbox."""

    first_pid: int
    limits: Limits
    group: Group | None
    _seen: dict[tuple[str, int], float] = field(default_factory=dict)  # of all processes, also ended ones
    _built_s: float = 0.0  # the group's CPU time before the program

    def __post_init__(self) -> None:
        if self.group is not None:
            self._built_s = self.group.cpu_s()

    def look(self) -> Usage:
        """The present usage. Raises OSError if the sandbox is not built yet or has ended."""
        root = Path(f"/proc/{self.first_pid}/root")
        # until bubblewrap changes its root, this is the machine's own /proc
        if os.stat(root).st_dev == os.stat("/").st_dev or not os.path.exists(f"{root}{DRIVER}"):
            raise NotBuilt(self.first_pid)
        folder = root / "proc"
        names = [name for name in os.listdir(folder) if name.isdigit()]
        found = [process for name in names for process in _process(folder, name)]
        return Usage(self._cpu_s(found), self._memory_bytes(folder, found), len(found))

    def _cpu_s(self, found: Sequence[_Process]) -> float:
        if self.group is not None:
            return self.group.cpu_s() - self._built_s
        self._seen |= {process.key: process.own_s for process in found}
        return max(sum(p.own_s + p.reaped_s for p in found), sum(self._seen.values()))

    def _memory_bytes(self, folder: Path, found: Sequence[_Process]) -> int:
        """Resident memory, plus the capacity of all socket and pipe buffers.

        The first estimate is too high: resident sizes count pages shared after a fork for each process, and
        every descriptor counts as a pipe. If it is over the limit, proportional sizes and the real pipes,
        which take longer to read, decide.
        """
        sockets = SOCKET_BYTES * _num_sockets(self.first_pid)
        open_files = sum(len(_descriptors(folder, p.name, self.limits)) for p in found)
        memory = sum(p.resident_bytes for p in found) + PIPE_BYTES * open_files + sockets
        if memory <= self.limits.memory_bytes:
            return memory
        proportional = sum(_proportional_bytes(folder, p.name) for p in found)
        return proportional + PIPE_BYTES * _num_pipes(folder, found, self.limits) + sockets


def _process(folder: Path, name: str) -> Iterator[_Process]:
    """The process; nothing if it has ended."""
    try:
        text = (folder / name / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return
    fields = text.rpartition(b")")[2].split()  # a process may call itself ") 1 2 3"
    own, reaped = (
        sum(map(int, fields[i : i + 2])) / TICKS_PER_S for i in (11, 13)
    )  # [cu]time, [cs]time: proc(5)
    yield _Process(name, (name, int(fields[19])), own, reaped, int(fields[21]) * PAGE_BYTES)


def _proportional_bytes(folder: Path, name: str) -> int:
    try:
        found = _PSS.search((folder / name / "smaps_rollup").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if found is None else int(found[1]) << 10


def _num_sockets(first_pid: int) -> int:
    """The number of sockets, also those in flight, which no process holds; all are AF_UNIX (seccomp.py)."""
    return Path(f"/proc/{first_pid}/net/unix").read_bytes().count(b"\n") - 1  # a line of headings


def _descriptors(folder: Path, name: str, limits: Limits) -> list[str]:
    try:
        return os.listdir(folder / name / "fd")
    except (FileNotFoundError, ProcessLookupError):
        return []
    except PermissionError:  # it runs a file that it can't read: as many as it can have
        return [f"hidden {number}" for number in range(limits.open_files)]


def _num_pipes(folder: Path, found: Sequence[_Process], limits: Limits) -> int:
    pipes: set[str] = set()
    for process in found:
        for descriptor in _descriptors(folder, process.name, limits):
            try:
                target = os.readlink(folder / process.name / "fd" / descriptor)
            except OSError:
                target = f"pipe:{process.name} {descriptor}" if descriptor.startswith("hidden") else ""
            if target.startswith("pipe:"):
                pipes.add(target)
    return len(pipes)
