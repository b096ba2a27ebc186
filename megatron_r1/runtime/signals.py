"""Signals on both sides: a rank turns them into a flag that stages poll, the launcher passes them on.

In a rank the first SIGINT or SIGTERM asks for a checkpoint and a clean end (exit code 75), the second one
ends the process at once. SIGUSR1, which SLURM can send some minutes before the time limit, only sets the
flag: the SIGTERM that follows it must not cut a checkpoint short. SIGUSR2 writes the stacks of all threads
to the rank's log, even while it is stuck in a collective.

Until a rank has installed its handlers (Python takes a tenth of a second to start) every one of these would
kill it without a word. So the launcher starts it with them blocked, and what came meanwhile counts when
`install` unblocks them.

A signal may reach the ranks a step apart, so those who poll must agree before they act on it (sum the flag
over the ranks); else one rank leaves while the others wait for it.
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
    """Take over the signals of this process, a rank. Call it first, from the main thread."""
    for signum in (*STOP_SIGNALS, WARNING_SIGNAL):
        signal.signal(signum, _on_signal)
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    os.register_at_fork(after_in_child=_restore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RANK_SIGNALS)


def ignore() -> None:
    """From now on no signal asks this process to stop, or ends it: its work and its exit code are settled."""
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
    """The launcher's side: a list that every SIGINT and SIGTERM is appended to while inside.

    Outside the main thread Python allows no handlers; the list stays empty there.
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
        elif not received:  # a closing terminal sends it twice, and means to end the run, not to kill it
            received.append(signal.SIGTERM)

    before = {signum: signal.signal(signum, on_signal) for signum in watched}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
