"""Signal handling: a rank turns signals into a flag that stages poll; the launcher collects and forwards.

In a rank the first SIGINT or SIGTERM asks for a checkpoint and a clean end (exit code 75), the second one
ends the process at once. SIGUSR1, which SLURM can send some minutes before the time limit, only sets the
flag, so that the SIGTERM after it doesn't count as the second. SIGUSR2 writes the stacks of all threads to
the rank's log, even while the rank is stuck in a collective.

A signal that arrives before the handlers are installed (Python takes a tenth of a second to start) would kill
the rank. So the launcher starts ranks with these signals blocked; pending ones arrive when `install` unblocks
them.

A signal may reach the ranks in different steps. Stages must therefore agree before they act on the flag (sum
it over the ranks), or one rank leaves while the others wait for it.
"""

import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
WARNING_SIGNAL = signal.SIGUSR1
STACKS_SIGNAL = signal.SIGUSR2
RANK_SIGNALS = frozenset((*STOP_SIGNALS, WARNING_SIGNAL, STACKS_SIGNAL))

_stop = threading.Event()
_stop_signals_seen = 0


def install() -> None:
    """Install the handlers in a rank. Call it first, from the main thread."""
    for signum in (*STOP_SIGNALS, WARNING_SIGNAL):
        signal.signal(signum, _on_signal)
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    os.register_at_fork(after_in_child=_restore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RANK_SIGNALS)


def ignore() -> None:
    """Ignore the stop signals from now on, as the exit code is decided."""
    for signum in (*STOP_SIGNALS, WARNING_SIGNAL):
        signal.signal(signum, signal.SIG_IGN)


def stop_requested() -> bool:
    """Whether this rank was asked to write a checkpoint and end."""
    return _stop.is_set()


def _on_signal(signum: int, frame: FrameType | None) -> None:
    global _stop_signals_seen
    _stop.set()
    if signum == WARNING_SIGNAL:
        return
    _stop_signals_seen += 1
    if _stop_signals_seen > 1:
        os._exit(128 + signum)


def _restore() -> None:
    # A forked worker that keeps the handler would survive the terminate() of its pool.
    for signum in (*STOP_SIGNALS, WARNING_SIGNAL):
        signal.signal(signum, signal.SIG_DFL)


@contextlib.contextmanager
def collected() -> Iterator[list[int]]:
    """The launcher's handlers: a list to which every SIGINT and SIGTERM is appended inside the block.

    Python allows no handlers outside the main thread; the list stays empty there.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    watched = [*STOP_SIGNALS]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup stays nohup
        watched.append(signal.SIGHUP)

    def on_signal(signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGHUP:
            received.append(signum)
        elif not received:  # a closing terminal sends SIGHUP twice, which must not count as the second signal
            received.append(signal.SIGTERM)

    before = {signum: signal.signal(signum, on_signal) for signum in watched}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
