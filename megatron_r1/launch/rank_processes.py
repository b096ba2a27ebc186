"""The processes of the ranks on this machine: started, watched, and never left behind.

Each rank has a session of its own, so that a Ctrl-C reaches it only through the launcher, once. Its output
goes to a log file and never through a pipe, so a terminal that stops reading can't stop it. If the launcher
itself is killed, the kernel ends the ranks (PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import os
import queue
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_r1.files.run_directory import rank_log
from megatron_r1.launch import failure_report
from megatron_r1.launch.display import Display
from megatron_r1.launch.failure_report import Death
from megatron_r1.runtime import heartbeat, signals

_PR_SET_PDEATHSIG = 1
_PORTS = range(20000, 32000)  # below the ports that the kernel hands to outgoing connections


@dataclass(frozen=True, slots=True)
class Rank:
    """A started rank; log_start is where in its log this launch begins."""

    index: int
    process: subprocess.Popen[bytes]
    log_path: Path
    log_start: int


class Team:
    """The processes of a run; on leaving none of them is left."""

    def __init__(self, log_dir: Path) -> None:
        self.running: dict[int, Rank] = {}
        self._log_dir = log_dir
        self._deaths: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._watchers: list[threading.Thread] = []
        self._display: Display | None = None
        self._ending = False

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        self._mute()
        self.kill()
        for watcher in self._watchers:
            watcher.join()
        for rank in self.running.values():
            rank.process.wait()

    def start(
        self, command: Sequence[str], *, ranks: int, env: Mapping[str, str], blocked: Collection[int] = ()
    ) -> None:
        """Start the ranks. blocked: signals that wait until a rank unblocks them."""
        shared = {
            "PYTHONUNBUFFERED": "1",  # the last words of a killed rank must be in its log
            **env,
            **heartbeat.environment(self._log_dir),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        # preexec_fn is only safe while there are no threads: start all, then watch.
        for rank in range(ranks):
            self.running[rank] = _start(
                command, rank=rank, log_dir=self._log_dir, env=shared, blocked=blocked
            )
        for rank in self.running.values():
            self._watchers.append(threading.Thread(target=self._watch, args=(rank,), daemon=True))
            self._watchers[-1].start()
        self._display = Display(self.running[0].log_path, start=self.running[0].log_start)

    def next_death(self, *, timeout_s: float) -> Death | None:
        """The next rank to end, or None after timeout_s. What is left of its process group is killed."""
        try:
            rank = self.running[self._deaths.get(timeout=timeout_s)]
        except queue.Empty:
            self._show()
            return None
        _kill_group(rank)  # before the wait: until then the id can't be another's
        returncode = rank.process.wait()
        del self.running[rank.index]
        log_end = failure_report.read_end(rank.log_path, start=rank.log_start)
        death = Death(rank.index, returncode, log_end, ours=self._ending)
        if death.failed:  # the message will show the culprit's log; what rank 0 says now would bury it
            self._mute()
        self._show()
        return death

    def _show(self) -> None:
        if self._display is not None:
            self._display.show()

    def _mute(self) -> None:
        if self._display is not None:
            self._display.close()

    def signal(self, signum: int) -> None:
        """To the ranks themselves, not to their children: they may be writing the checkpoint."""
        for rank in self.running.values():
            os.kill(rank.process.pid, signum)  # Popen's own would reap the process behind our back

    def take_down(self, *, stacks: bool) -> None:
        """Ask the ranks to end; with `stacks`, to log first where each of their threads is."""
        self._ending = True
        if stacks:
            self.signal(signals.STACKS_SIGNAL)
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the ranks and all that they started."""
        self._ending = True
        for rank in self.running.values():
            _kill_group(rank)

    def _watch(self, rank: Rank) -> None:
        os.waitid(os.P_PID, rank.process.pid, os.WEXITED | os.WNOWAIT)  # leaves the status to next_death
        self._deaths.put(rank.index)


def _start(
    command: Sequence[str], *, rank: int, log_dir: Path, env: Mapping[str, str], blocked: Collection[int]
) -> Rank:
    path = rank_log(log_dir, rank)
    with path.open("ab") as file:
        file.write(f"=== rank {rank}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        file.flush()
        start = file.tell()
        process = subprocess.Popen(
            command,
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_before_exec(os.getpid(), blocked),
        )
    return Rank(index=rank, process=process, log_path=path, log_start=start)


def _before_exec(launcher: int, blocked: Collection[int]) -> Callable[[], None]:
    """In the rank: it dies with the launcher, and the signals of `blocked` wait."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: little is safe between fork and exec

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != launcher:  # it died before the call
            os._exit(1)

    return prepare


def _kill_group(rank: Rank) -> None:
    with contextlib.suppress(ProcessLookupError):  # nothing is left of it
        os.killpg(rank.process.pid, signal.SIGKILL)


def _free_port() -> int:
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port among 100 tried in {_PORTS.start}-{_PORTS.stop - 1}")
