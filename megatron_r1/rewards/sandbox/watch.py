"""Memory, processes and CPU time of a whole sandbox: what rlimits count for each process alone.

The sandbox has a /proc of its own that lists its processes and no others; it is read from outside, through
the root directory of its first process. A program can neither hide from it nor slow it down: it lists at most
`processes` entries, because RLIMIT_NPROC holds as well.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_r1.rewards.sandbox.command import DRIVER

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)
OWN = 2  # bubblewrap's first process and, for a moment, prlimit


class NotBuilt(OSError):
    """The sandbox's first process has not entered it yet: nothing of the program runs so far."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a sandbox at one moment; cpu_s includes those that have ended."""

    cpu_s: float
    memory_bytes: int
    processes: int


NOTHING = Usage(0.0, 0, 0)


def measure(first_pid: int, *, memory_limit: int) -> Usage:
    """first_pid: the sandbox's first process, in this machine's numbers; OSError when it is not there.

    Resident sizes count pages that a fork shares once for each process: where their sum is over memory_limit,
    the proportional sizes, which take longer to read, decide.
    """
    root = Path(f"/proc/{first_pid}/root")
    # until bubblewrap changes its root, this is the machine's own /proc
    if os.stat(root).st_dev == os.stat("/").st_dev or not os.path.exists(f"{root}{DRIVER}"):
        raise NotBuilt(first_pid)
    folder = root / "proc"
    names = [name for name in os.listdir(folder) if name.isdigit()]
    found = [stat for name in names for stat in _stat(folder, name)]
    memory = sum(resident for _, resident in found)
    if memory > memory_limit:
        memory = sum(_proportional_bytes(folder, name) for name in names)
    return Usage(sum(cpu for cpu, _ in found), memory, len(found))


def _stat(folder: Path, name: str) -> Iterator[tuple[float, int]]:
    """CPU seconds with those of reaped children, and resident bytes; nothing of a process that has ended."""
    try:
        text = (folder / name / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return
    fields = text.rpartition(b")")[2].split()  # a process may call itself ") 1 2 3"
    ticks = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime (proc(5))
    yield ticks / TICKS_PER_S, int(fields[21]) * PAGE_BYTES


def _proportional_bytes(folder: Path, name: str) -> int:
    try:
        found = _PSS.search((folder / name / "smaps_rollup").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if found is None else int(found[1]) << 10
