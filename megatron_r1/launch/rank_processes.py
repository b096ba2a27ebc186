"""The rank processes on this machine: starts them, watches them, and leaves none behind.

Each rank runs in its own session, so that Ctrl-C reaches it once, through the launcher. Its output goes to a
log file rather than a pipe, so that a terminal that stops reading can't block it. If the launcher is killed,
the kernel ends the ranks (PR_SET_PDEATHSIG).
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
    """A started rank; log_start is the byte of its log where this launch begins."""

    index: int
    process: subprocess.Popen[bytes]
    log_path: Path
    log_start: int


class Team:
    """The rank processes of a run, as a context manager: on exit all of them have ended."""

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
        """Start the ranks. blocked: signals that stay pending until a rank unblocks them."""
        shared = {
            "PYTHONUNBUFFERED": "1",  # a killed rank's last output must be in its log
            **env,
            **heartbeat.environment(self._log_dir),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        # preexec_fn is only safe in a process without threads, so the watchers start after all ranks.
        for rank in range(ranks):
            self.running[rank] = _start(
                command, rank=rank, log_dir=self._log_dir, env=shared, blocked=blocked
            )
        for rank in self.running.values():
            self._watchers.append(threading.Thread(target=self._watch, args=(rank,), daemon=True))
            self._watchers[-1].start()
        self._display = Display(self.running[0].log_path, start=self.running[0].log_start)

    def next_death(self, *, timeout_s: float) -> Death | None:
        """The next rank to end, or None after timeout_s. The rest of its process group is killed."""
        try:
            rank = self.running[self._deaths.get(timeout=timeout_s)]
        except queue.Empty:
            self._show()
            return None
        _kill_group(rank)  # before the wait: only until then is the process id certainly its own
        returncode = rank.process.wait()
        del self.running[rank.index]
        log_end = failure_report.read_end(rank.log_path, start=rank.log_start)
        death = Death(rank.index, returncode, log_end, ours=self._ending)
        if death.failed:  # the report shows the culprit's log; more output of rank 0 would bury it
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
        """Signal the ranks, but not their children, which may be writing the checkpoint."""
        for rank in self.running.values():
            os.kill(rank.process.pid, signum)  # Popen.send_signal polls, and so would reap the process

    def take_down(self, *, stacks: bool) -> None:
        """Ask the ranks to end; with `stacks`, each logs the stacks of its threads first."""
        self._ending = True
        if stacks:
            self.signal(signals.STACKS_SIGNAL)
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the ranks and every process that they started."""
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
    """A preexec_fn: the kernel kills the rank when the launcher dies, and `blocked` signals stay pending."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: little is safe between fork and exec

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != launcher:  # the launcher died before the prctl call
            os._exit(1)

    return prepare


def _kill_group(rank: Rank) -> None:
    with contextlib.suppress(ProcessLookupError):  # the whole group has ended
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
