"""The pool's promises: limits hold, a death costs one item, order stays, nothing is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from megatron_r1.errors import R1Error
from megatron_r1.rewards.grading import pool as grading_pool
from megatron_r1.rewards.grading.pool import GradingPool, Verdict
from megatron_r1.rewards.math.expression import Node, number
from megatron_r1.rewards.math.statement import read_statement

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
NINE, THREE = number(9), number(3)
SQUARE_ROOT = read_statement(r"\sqrt{8}").readings
TOWER = Node("power", (NINE, Node("power", (NINE, Node("power", (NINE, NINE))))))
HANG = ("math", ((TOWER,), (Node("add", (TOWER, THREE)),)))  # one multiplication in C that never ends
CRASH = ("no such grader", ())  # an error outside the graders ends the process
RIGHT = ("math", (SQUARE_ROOT, read_statement(r"2\sqrt{2}").readings))
WRONG = ("math", (SQUARE_ROOT, (THREE,)))
UNREADABLE = ("math_reference", ((Node("either", (NINE,), "pm"),),))


@pytest.fixture
def pool():
    pool = GradingPool(num_workers=2, cpu_s=0.5, memory_bytes=1 << 30)
    yield pool
    pool.close()


def test_verdicts_stay_in_the_order_of_the_jobs_around_killed_and_crashed_ones(pool):
    jobs = [RIGHT, HANG, WRONG, CRASH, UNREADABLE, RIGHT]
    killed = Verdict.KILLED
    expected = [Verdict.RIGHT, killed, Verdict.WRONG, killed, Verdict.UNREADABLE, Verdict.RIGHT]
    assert pool.run(jobs) == expected
    assert pool.run(jobs[4:]) == expected[4:]
    assert pool.run([]) == []


def test_workers_start_with_the_first_job_and_no_more_than_needed(pool):
    assert pool.pids == []
    pool.run([RIGHT])
    assert len(pool.pids) == 1


def test_a_worker_that_died_between_batches_is_replaced(pool):
    pool.run([RIGHT])
    dead = pool.pids
    os.kill(dead[0], signal.SIGKILL)
    time.sleep(0.1)
    assert pool.run([RIGHT, WRONG]) == [Verdict.RIGHT, Verdict.WRONG]
    assert not set(dead) & set(pool.pids)


def test_a_stopped_worker_is_the_machines_fault(pool, monkeypatch):
    pool.run([RIGHT])
    monkeypatch.setattr(grading_pool, "WALL_FACTOR", 1.0)
    os.kill(pool.pids[0], signal.SIGSTOP)
    assert pool.run([RIGHT]) == [Verdict.STALLED]
    monkeypatch.undo()
    assert pool.run([RIGHT]) == [Verdict.RIGHT]


def test_memory_is_limited():
    pool = GradingPool(num_workers=1, cpu_s=20.0, memory_bytes=400 << 20)
    pool.run([RIGHT])
    limits = Path(f"/proc/{pool.pids[0]}/limits").read_text()
    assert str(400 << 20) in next(
        line for line in limits.splitlines() if line.startswith("Max address space")
    )
    pool.close()


def test_workers_import_no_torch_and_see_no_gpu(pool):
    pool.run([RIGHT])
    (pid,) = pool.pids
    assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
    assert b"CUDA_VISIBLE_DEVICES=\0" in Path(f"/proc/{pid}/environ").read_bytes()
    descriptors = {os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0] for fd in (0, 1, 3)}
    assert "socket" not in descriptors


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_job_costs_no_verdict(pool, signum):
    pool.run([RIGHT])
    pids = pool.pids
    for pid in pids:
        os.kill(pid, signum)
    assert pool.run([RIGHT]) == [Verdict.RIGHT]
    assert pool.pids == pids, "the same process, which never saw the signal"


def test_a_grader_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(R1Error, match="did not start"):
        GradingPool(num_workers=1, cpu_s=1.0, memory_bytes=1 << 30).run([RIGHT])


@pytest.mark.parametrize("ending", ["pass", "os.kill(os.getpid(), 9)"])
def test_no_process_outlives_its_parent(ending):
    parent = textwrap.dedent(f"""
        import os
        from megatron_r1.rewards.grading.pool import GradingPool
        from megatron_r1.rewards.math.expression import number
        pool = GradingPool(num_workers=1, cpu_s=1.0, memory_bytes=1 << 30)
        pool.run([("math", ((number(1),), (number(1),)))])
        print(*pool.pids, flush=True)
        {ending}
    """)
    output = subprocess.run(
        [sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    worker = Path("/proc") / output.strip()
    deadline = time.monotonic() + 10
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert output.strip().isdigit()
    assert not worker.exists()
