"""Pool of worker processes for graders that may hang, crash or exhaust the memory.

Python handles an alarm signal neither inside a long multiplication nor outside the main thread. So every item
runs in a worker process with limits of CPU time and memory; a worker that exceeds them is killed and
replaced. The limit is CPU time, so that a busy machine does not turn right answers into wrong ones; a much
longer wall-clock limit backs it up.

Workers start with the first item, inherit only three pipes, see no GPU, and end with the parent.
"""

import contextlib
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any

from megatron_r1.errors import R1Error
from megatron_r1.rewards.grading import worker as grading_worker

STARTUP_LIMIT_S = 300.0  # sympy and reasoning-gym are slow to import, more so on a loaded file system
WALL_FACTOR = 20.0  # wall limit of an item / its CPU limit

Job = tuple[str, tuple[Any, ...]]  # (kind, arguments), see worker.py


class Verdict(Enum):
    """The result of a job."""

    RIGHT = grading_worker.RIGHT
    WRONG = grading_worker.WRONG
    UNREADABLE = grading_worker.UNREADABLE  # the reference can't be parsed
    FAILED = grading_worker.FAILED  # the grader raised an exception, such as MemoryError
    KILLED = "killed"  # the CPU limit was exceeded, or the worker crashed
    STALLED = "stalled"  # the wall-clock limit was exceeded: the machine's fault


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    ready: bool = False
    job: int | None = None  # index of its current job
    deadline: float = 0.0

    @property
    def requests(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def replies(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout


class GradingPool:
    """Runs jobs on up to num_workers processes, which it starts and replaces as needed."""

    def __init__(self, *, num_workers: int, cpu_s: float, memory_bytes: int) -> None:
        self.num_workers = num_workers
        self.cpu_s = cpu_s
        self.memory_bytes = memory_bytes
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers)

    def run(self, jobs: Sequence[Job]) -> list[Verdict]:
        """One verdict for each job, in order."""
        with self._lock:
            verdicts: list[Verdict | None] = [None] * len(jobs)
            waiting = deque(range(len(jobs)))
            try:
                while waiting or any(worker.job is not None for worker in self._workers):
                    self._staff(len(waiting))
                    self._hand_out(jobs, waiting)
                    for index, verdict in self._collect():
                        verdicts[index] = verdict
            except BaseException:
                _kill_all(self._workers)  # else the next run would read this run's replies
                raise
        assert None not in verdicts
        return [verdict for verdict in verdicts if verdict is not None]

    def close(self) -> None:
        """End the workers; the next run starts new ones."""
        _kill_all(self._workers)

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def _staff(self, num_waiting: int) -> None:
        idle = sum(worker.job is None for worker in self._workers)
        missing = min(self.num_workers - len(self._workers), num_waiting - idle)
        for _ in range(missing):
            self._workers.append(self._start())

    def _start(self) -> _Worker:
        package_root = str(Path(grading_worker.__file__).parents[3])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",  # each BLAS thread would reserve address space
        }
        command = [sys.executable, "-P", "-W", "ignore", "-m", grading_worker.__name__]
        with _signals_of_a_job_blocked():
            process = subprocess.Popen(
                [*command, str(self.cpu_s), str(self.memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env,
            )
        return _Worker(process, deadline=time.monotonic() + STARTUP_LIMIT_S)

    def _hand_out(self, jobs: Sequence[Job], waiting: deque[int]) -> None:
        for worker in list(self._workers):
            if waiting and worker.ready and worker.job is None:
                try:
                    pickle.dump(jobs[waiting[0]], worker.requests)
                    worker.requests.flush()
                except BrokenPipeError:  # the worker died between two jobs, so this job is not to blame
                    self._dismiss(worker)
                    continue
                worker.job = waiting.popleft()
                worker.deadline = time.monotonic() + WALL_FACTOR * self.cpu_s

    def _collect(self) -> list[tuple[int, Verdict]]:
        """Wait for the next reply, death or deadline; returns (job, verdict) of all that have arrived."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.replies, selectors.EVENT_READ, worker)
            wait_s = min((w.deadline for w in self._workers if not w.ready or w.job is not None), default=0.0)
            heard = [key.data for key, _ in selector.select(max(wait_s - time.monotonic(), 0.0))]
        finished = [done for worker in heard if (done := self._hear(worker)) is not None]
        return finished + self._enforce_deadlines()

    def _hear(self, worker: _Worker) -> tuple[int, Verdict] | None:
        reply = worker.replies.readline().decode().strip()
        job, worker.job = worker.job, None
        if not reply:
            self._dismiss(worker)
            if not worker.ready:
                raise R1Error(
                    f"rewards: a grading process did not start (exit status {worker.process.returncode}; its "
                    f"own message is above); is sympy installed, and are {self.memory_bytes} bytes of "
                    "memory enough for it?"
                )
            return None if job is None else (job, Verdict.KILLED)
        if not worker.ready:
            assert reply == grading_worker.READY, reply
            worker.ready = True
            return None
        assert job is not None, reply
        return job, Verdict(reply)

    def _enforce_deadlines(self) -> list[tuple[int, Verdict]]:
        stalled = []
        for worker in list(self._workers):
            if (worker.job is None and worker.ready) or time.monotonic() < worker.deadline:
                continue
            self._dismiss(worker)
            if worker.job is None:
                raise R1Error(f"rewards: a grading process did not start within {STARTUP_LIMIT_S:.0f} s")
            stalled.append((worker.job, Verdict.STALLED))
        return stalled

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        _kill_all([worker])


@contextlib.contextmanager
def _signals_of_a_job_blocked() -> Iterator[None]:
    """Start processes with the stop signals blocked.

    SLURM sends these to every process of a step. A worker that died of one would lose a verdict, and the
    resumed run would differ from an uninterrupted one. Workers end by SIGKILL or with the rank.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_all(workers: list[_Worker]) -> None:
    while workers:
        worker = workers.pop()
        worker.process.kill()
        worker.process.wait()
        worker.replies.close()
        try:
            worker.requests.close()
        except BrokenPipeError:
            continue  # a request that was only half written
