"""One rank: `python -m megatron_r1.launch.rank RUN_DIR`, started by local.py, by srun, or by torchrun.

It installs the signal handlers, runs the chain of stages, and turns an error into a message and an exit code.
Every rank leaves with os._exit, for two reasons. After a failure, the teardown of the process group can hang;
its peers would then time out first and be blamed. After success, Python's teardown drops the signal handlers,
so a late SIGUSR1 or SIGTERM would turn exit code 0 into a failure.
"""

import contextlib
import errno
import logging
import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NoReturn

from megatron_r1.errors import DataError, Interrupted, R1Error
from megatron_r1.files.run_directory import LOGS
from megatron_r1.runtime import env_vars, heartbeat, run_lock, signals

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


def main(run_dir: Path) -> int:
    """Run this rank's share of the run in run_dir; returns the code to `leave` with."""
    signals.install()
    log_dir = run_dir / LOGS
    log_dir.mkdir(exist_ok=True)
    for name, value in heartbeat.environment(log_dir).items():
        os.environ.setdefault(name, value)
    try:
        with _lock(run_dir):
            _run(run_dir)
    except Interrupted as stop:
        sys.stderr.write(f"interrupted: {stop}\n")
        return stop.exit_code
    except R1Error as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BaseException as error:  # the outermost frame; torch's CheckpointException is not an Exception
        words = _disk_trouble(error, run_dir)
        if words is not None:
            sys.stderr.write(f"error: {words}\n")
            return DataError.exit_code
        traceback.print_exc()
        return 1
    return 0


def _disk_trouble(error: BaseException, run_dir: Path) -> str | None:
    """The message for a full or read-only disk; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in DISK_TROUBLE:
        return None
    where = error.filename or f"a file of {run_dir}"
    return (
        f"{where}: not written: {error.strerror}; make room, or the place writable, and run the same "
        "command: it goes on from the last checkpoint"
    )


def _run(run_dir: Path) -> None:
    from megatron_r1.run.chain import run_rank  # loads torch for seconds: the handlers must stand before it

    run_rank(run_dir)


def _lock(run_dir: Path) -> AbstractContextManager[None]:
    """Rank 0 holds the run directory, unless the launcher does."""
    if os.environ["RANK"] != "0" or env_vars.LOCKED in os.environ:
        return nullcontext()
    return run_lock.hold(run_dir)


def leave(exit_code: int) -> NoReturn:
    """Flush the output and end this process; signals that ask it to stop no longer count."""
    signals.ignore()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk must not change the exit code
            stream.flush()
    logging.shutdown()
    os._exit(exit_code)


if __name__ == "__main__":  # keep the guard: a process that a library spawns imports this module again
    leave(main(Path(sys.argv[1])))
