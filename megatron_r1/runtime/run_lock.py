"""One run directory, one run: a lock that the kernel frees when its holder dies.

`.lock` in the run directory is held with flock and says who holds it. A stale file of a dead process blocks
nobody, because the lock is the kernel's and the text is only for people. On NFS 4, and on Lustre mounted
with `-o flock`, it holds between machines too; a file system without locks gives a warning instead.
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
    """Another run works in this run directory; the message says which."""

    exit_code = 7


def make_run_dir(run_dir: Path) -> None:
    """Make the run directory if there is none; ConfigError if nothing can be written there."""
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
    """Hold the run directory, which must exist, while inside; RunLockedError if another process does."""
    descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, run_dir)
        _write(descriptor, json.dumps(_owner()))
        yield
        _write(descriptor, "")
    finally:
        os.close(descriptor)  # frees the lock; the file stays, as removing it would race with a waiter


def holder(run_dir: Path) -> str | None:
    """Who works in the run directory now, as its lock says; None if nobody does.

    The lock itself is not tried, as that would get into the way of a run that starts. Of a process on this
    machine that was killed the text stays, so it must be there; one on another machine is believed.
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
    if not text:  # the holder is between taking the lock and writing its name, or just leaving
        return "another run"
    try:
        owner = parse_json(text)
        where = f"host {owner['host']}, pid {owner['pid']}"
    except (NotJson, KeyError, TypeError):  # a file that nobody of ours wrote
        return "another process"
    job = f", SLURM job {owner['job']}" if "job" in owner else ""
    return f"another run ({where}{job}, since {owner.get('since')})"


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
