"""One rank: `python -m megatron_r1.launch.rank RUN_DIR`, started by local.py, by srun, or by torchrun.

It installs the signals, runs the pipeline, and turns what goes wrong into words and an exit code. A failed
rank leaves with os._exit: tearing down a process group whose peers wait can hang, and while it does, they die
first and take the blame.
"""

import logging
import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NoReturn

from megatron_r1.errors import Interrupted, R1Error
from megatron_r1.launch import heartbeat, lock, signals, variables


def main(run_dir: Path) -> int:
    """Run this rank's share of the run in run_dir; does not return if it fails."""
    signals.install()
    log_dir = run_dir / "logs"
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
        _leave(error.exit_code)
    except Exception:  # the outermost frame: nothing is swallowed, only the teardown is skipped
        traceback.print_exc()
        _leave(1)
    return 0


def _run(run_dir: Path) -> None:
    from megatron_r1.pipeline import run_rank  # torch and Megatron: seconds, in which signals already count

    run_rank(run_dir)


def _lock(run_dir: Path) -> AbstractContextManager[None]:
    """Rank 0 holds the run directory, unless the launcher does."""
    if os.environ["RANK"] != "0" or variables.LOCKED in os.environ:
        return nullcontext()
    return lock.hold(run_dir)


def _leave(exit_code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(exit_code)


if __name__ == "__main__":  # the guard matters: a process that a library spawns imports this module again
    sys.exit(main(Path(sys.argv[1])))
