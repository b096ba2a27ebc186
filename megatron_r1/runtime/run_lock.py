"""Lock of the run directory: only one run works in it; the kernel frees the lock when the holder dies.

`.lock` in the run directory is held with flock; its text names the holder, for messages only. So the file of
a dead process blocks nobody. On NFS 4, and on Lustre mounted with `-o flock`, the lock holds between machines
too; a file system without locks gives a warning instead.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from megatron_r1.errors import ConfigError, R1Error
from megatron_r1.files.json_reader import NotJson, parse_json
from megatron_r1.files.run_directory import LOCK

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}

log = logging.getLogger(__name__)


class RunLockedError(R1Error):
    """Another run holds this run directory; the message says which."""

    exit_code = 7


def make_run_dir(run_dir: Path) -> None:
    """Create the run directory if needed; ConfigError if it can't be written to."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK):  # also on a file system that is mounted read-only
            raise PermissionError(errno.EACCES, "it is read-only")
    except OSError as error:
        raise ConfigError(
            f"{run_dir}: the run can't be kept there: {error.strerror}; name another directory "
            "with --run-dir or `run_dir`"
        ) from None


@contextlib.contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Hold the lock of an existing run directory inside the block; RunLockedError if another process does."""
    descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, run_dir)
        _write(descriptor, json.dumps(_owner()))
        yield
        _write(descriptor, "")
    finally:
        os.close(descriptor)  # frees the lock; the file stays, as removing it would race with a waiter


def holder(run_dir: Path) -> str | None:
    """The process that holds the run directory, from the lock's text; None if there is none.

    The lock itself is not tried, which could make a starting run fail. The text of a killed process stays, so
    a process of this machine is checked in /proc; one of another machine is taken at its word.
    """
    try:
        owner = parse_json((run_dir / LOCK).read_bytes())
        host, pid = str(owner["host"]), int(owner["pid"])
    except (OSError, NotJson, KeyError, TypeError, ValueError):
        return None
    if host == socket.gethostname() and not Path(f"/proc/{pid}").exists():
        return None
    return f"pid {pid} on {host}"


def _acquire(descriptor: int, run_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunLockedError(
            f"{run_dir}: held by {_describe(os.read(descriptor, 4096))}; "
            "wait for it, stop it, or give this run another name"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks; make sure that no other run uses it", run_dir)


def _owner() -> dict[str, str | int]:
    owner: dict[str, str | int] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if "SLURM_JOB_ID" in os.environ:
        owner["job"] = os.environ["SLURM_JOB_ID"]
    return owner


def _describe(text: bytes) -> str:
    if not text:  # the holder has just taken the lock or is about to free it
        return "another run"
    try:
        owner = parse_json(text)
        where = f"host {owner['host']}, pid {owner['pid']}"
    except (NotJson, KeyError, TypeError):  # not a text of `hold`
        return "another process"
    job = f", SLURM job {owner['job']}" if "job" in owner else ""
    return f"another run ({where}{job}, since {owner.get('since')})"


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
