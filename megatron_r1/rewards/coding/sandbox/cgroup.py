"""A control group (cgroup v2) around a sandbox, where this machine allows one.

Only the kernel accounts for everything: CPU time of ended children that nobody waited for, pages of /tmp,
buffers of sockets and pipes, page tables. This process needs a group that it may write to: its own, or the
parent (`systemd-run --user --scope`; or, as root in a container, a shell that first moves into a group of its
own). CPU time is counted in any group; memory and processes are limited if the group has those controllers
(Documentation/admin-guide/cgroup-v2.rst).
"""

import contextlib
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from megatron_r1.rewards.coding.sandbox.limits import MIB, Limits

MEMBERS = "cgroup.procs"
ENTER = 'echo $$ > "$0" && exec "$@"'  # $0: the members of the group; then the command, if any
SLACK_BYTES = 16 * MIB  # for bubblewrap and the kernel's accounting
SLACK_PROCESSES = 8  # for bubblewrap and the processes that build the sandbox
REMOVAL_LIMIT_S = 5.0
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Lent:
    """A parent group for sandboxes, and what the kernel can limit in it beside counting CPU time."""

    parent: Path
    memory: bool
    processes: bool

    def __str__(self) -> str:
        held = ["CPU time", *["memory"] * self.memory, *["processes"] * self.processes]
        return f"{', '.join(held)} (in {self.parent})"


def holds() -> str:
    """Which limits hold on this machine, for a message."""
    where = lent()
    if where is None:
        return (
            "No control group is lent here, so the nearest bounds hold: CPU time, memory and processes of a "
            "program are looked at every 20 ms. Start the run in one to have the kernel hold them: "
            "`systemd-run --user --scope -p Delegate=yes megatron-r1 run ...`"
        )
    rest = "" if where.memory and where.processes else "; what is not named is looked at every 20 ms"
    return f"The kernel holds a program's {where}{rest}."


@cache
def lent() -> Lent | None:
    """The group for sandboxes, None if there is none; tried once, with a process that enters and leaves."""
    own = _own_group()
    if own is None:
        return None
    found = [lent for parent in (own, own.parent) if (lent := _tried(parent)) is not None]
    for place in found:
        _remove_left_behind(place.parent)
    return max(found, key=lambda lent: lent.memory + lent.processes, default=None)


def _own_group() -> Path | None:
    """The directory of the group that this process is in; None without cgroup v2."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    paths = [line.removeprefix("0::") for line in groups if line.startswith("0::")]
    roots = [line.split() for line in mounts if " - cgroup2 " in line]
    if not paths or not roots:
        return None
    root, mount = roots[0][3:5]
    if paths[0].startswith("/.."):  # above what this container sees
        return None
    inside = os.path.relpath(paths[0], root)
    return None if inside.startswith("..") else Path(mount, inside)


def _tried(parent: Path) -> Lent | None:
    for controller in ("memory", "pids"):
        with contextlib.suppress(OSError):  # not there, not ours, or taken by the processes of this group
            (parent / "cgroup.subtree_control").write_text(f"+{controller}", encoding="utf-8")
    group = parent / f"r1-trial-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        entered = subprocess.run(_enter(group), capture_output=True, timeout=30, check=False)
        if entered.returncode or not (group / "cpu.stat").exists():
            return None
        return Lent(parent, (group / "memory.max").exists(), (group / "pids.max").exists())
    finally:
        _remove(group)


@dataclass(frozen=True, slots=True)
class Group:
    """The group of one sandbox."""

    path: Path
    lent: Lent

    @property
    def enter(self) -> list[str]:
        """The command prefix that makes a command run in the group."""
        return _enter(self.path)

    def cpu_s(self) -> float:
        return _numbers_of(self.path / "cpu.stat")["usage_usec"] / 1e6

    def ran_out_of_memory(self) -> bool:
        """Whether the group hit its own limit, rather than the machine running out of memory."""
        if not self.lent.memory:
            return False
        events = _numbers_of(self.path / "memory.events")
        return events["oom"] > 0 and events["oom_kill"] > 0


@contextlib.contextmanager
def group(limits: Limits) -> Iterator[Group | None]:
    """A new group for a sandbox, removed at the end with its processes. OSError if it can't be made."""
    where = lent()
    if where is None:
        yield None
        return
    path = where.parent / f"r1-sandbox-{os.getpid()}-{next(_numbers)}"
    path.mkdir()
    try:
        if where.memory:
            memory = limits.memory_bytes + limits.disk_bytes + SLACK_BYTES
            _write(path / "memory.max", memory)
            _write(path / "memory.oom.group", 1)
            if (path / "memory.swap.max").exists():
                _write(path / "memory.swap.max", 0)
        if where.processes:
            _write(path / "pids.max", limits.processes + SLACK_PROCESSES)
        yield Group(path, where)
    finally:
        _remove(path)


def _enter(path: Path) -> list[str]:
    return ["/bin/sh", "-c", ENTER, str(path / MEMBERS)]


def _write(path: Path, value: int) -> None:
    path.write_text(str(value), encoding="utf-8")


def _numbers_of(path: Path) -> dict[str, int]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


def _remove_left_behind(parent: Path) -> None:
    """Remove groups left by killed ranks, with their processes.

    bubblewrap 0.8 waits for ever if the rank is killed while it builds a sandbox (the program never starts).
    """
    for path in parent.glob("r1-sandbox-*-*"):
        if not Path("/proc", path.name.split("-")[2]).exists():
            _remove(path)


def _remove(path: Path) -> None:
    """Kill the group's processes and remove it, once the last is gone, which takes the kernel a moment."""
    with contextlib.suppress(OSError):  # before Linux 5.14
        _write(path / "cgroup.kill", 1)
    deadline = time.monotonic() + REMOVAL_LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            path.rmdir()
            return
        time.sleep(0.002)
