"""Processes that grade never see the signals that ask a rank to stop.

SLURM sends them to every process of a step; a worker or program that died of one would cost an item its
verdict, and the resumed run would differ from the uninterrupted one. They end with SIGKILL or with the rank.
"""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Processes started within, by this thread, inherit the mask, and so does what they start."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
