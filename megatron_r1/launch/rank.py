"""One rank: `python -m megatron_r1.launch.rank RUN_DIR`, started by local.py, by srun, or by torchrun.

It installs the signals, runs the pipeline, and turns what goes wrong into words and an exit code. Every rank
leaves with os._exit. Of a failed one the process group's teardown could hang while its peers wait, die first
and take the blame. Of one that is done Python's own teardown, where signal handlers no longer count, would
let a late SIGUSR1 or SIGTERM turn 0 into a failure.
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
    except BaseException as error:  # the outermost frame; torch's CheckpointException is no Exception
        words = _disk_trouble(error, run_dir)
        if words is not None:
            sys.stderr.write(f"error: {words}\n")
            return DataError.exit_code
        traceback.print_exc()
        return 1
    return 0


def _disk_trouble(error: BaseException, run_dir: Path) -> str | None:
    """A disk that takes no more, in words; None: something else."""
    if not isinstance(error, OSError) or error.errno not in DISK_TROUBLE:
        return None
    where = error.filename or f"a file of {run_dir}"
    return (
        f"{where}: not written: {error.strerror}; make room, or the place writable, and run the same "
        "command: it goes on from the last checkpoint"
    )


def _run(run_dir: Path) -> None:
    from megatron_r1.run.chain import run_rank  # torch and Megatron: seconds, in which signals already count

    run_rank(run_dir)


def _lock(run_dir: Path) -> AbstractContextManager[None]:
    """Rank 0 holds the run directory, unless the launcher does."""
    if os.environ["RANK"] != "0" or env_vars.LOCKED in os.environ:
        return nullcontext()
    return run_lock.hold(run_dir)


def leave(exit_code: int) -> NoReturn:
    """End this process with what it wrote, and deaf to the signals that ask a rank to stop: it has."""
    signals.ignore()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk doesn't make another ending of it
            stream.flush()
    logging.shutdown()
    os._exit(exit_code)


if __name__ == "__main__":  # the guard matters: a process that a library spawns imports this module again
    leave(main(Path(sys.argv[1])))
