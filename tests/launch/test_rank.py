"""A rank with a pipeline put in its place: what it prints, and the code that it exits with."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from megatron_r1.runtime import env_vars, run_lock

from .conftest import ROOT

PRELUDE = """
import multiprocessing, os, signal, sys, time, types
from pathlib import Path
from megatron_r1.errors import *
from megatron_r1.runtime import heartbeat, signals
from megatron_r1.launch.rank import leave, main

def me(signum):
    os.kill(os.getpid(), signum)
"""


@pytest.fixture
def rank(tmp_path):
    def start(body: str, **variables: str) -> subprocess.CompletedProcess:
        pipeline = "def run_rank(run_dir):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        install = "sys.modules['megatron_r1.run.chain'] = types.SimpleNamespace(run_rank=run_rank)\n"
        path = tmp_path / "one_rank.py"
        path.write_text(f"{PRELUDE}\n{pipeline}\n{install}leave(main(Path({str(tmp_path)!r})))\n")
        env = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "0", **variables}
        return subprocess.run([sys.executable, path], env=env, capture_output=True, text=True, timeout=30)

    return start


def test_what_the_user_can_mend_is_said_without_a_traceback(rank):
    done = rank("raise GateError('zero: loss is NaN at step 7; lower optim.lr')")
    assert (done.returncode, done.stderr) == (5, "error: zero: loss is NaN at step 7; lower optim.lr\n")


def test_our_own_mistakes_keep_their_traceback(rank):
    done = rank("assert run_dir is None, 'unexpected'")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "AssertionError: unexpected" in done.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_sets_the_flag(rank, signum):
    done = rank(f"""
        assert not signals.stop_requested()
        me({int(signum)})
        if signals.stop_requested():
            raise Interrupted("the checkpoint of step 3 is written")
    """)
    assert (done.returncode, done.stderr) == (75, "interrupted: the checkpoint of step 3 is written\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once(rank, signum):
    done = rank(f"me({int(signum)}); me({int(signum)}); print('still here')")
    assert (done.returncode, done.stdout) == (128 + signum, "")


def test_an_early_warning_does_not_count_as_the_first_signal(rank):
    done = rank("me(signal.SIGUSR1); me(signal.SIGUSR1); me(signal.SIGTERM); print('still here')")
    assert (done.returncode, done.stdout) == (0, "still here\n")


def test_a_forked_worker_can_be_terminated(rank):
    done = rank("""
        context = multiprocessing.get_context("fork")
        started = context.Event()
        worker = context.Process(target=lambda: (started.set(), time.sleep(60)))
        worker.start()
        started.wait()  # CPython loses a signal that arrives amid the fork
        worker.terminate()
        worker.join()
        assert worker.exitcode == -signal.SIGTERM
    """)
    assert done.returncode == 0, done.stderr


def test_a_failed_rank_does_not_wait_for_its_threads(rank):
    done = rank("""
        import threading
        threading.Thread(target=time.sleep, args=(60,)).start()  # as the teardown of a process group waits
        raise DataError("x.jsonl:3: no prompt")
    """)
    assert (done.returncode, done.stderr) == (3, "error: x.jsonl:3: no prompt\n")


def test_a_rank_started_by_srun_beats_and_rank_0_holds_the_run_directory(rank, tmp_path):
    assert rank("heartbeat.beat('zero', 2)").returncode == 0
    assert (tmp_path / "logs/rank0.json").exists()
    with run_lock.hold(tmp_path):
        assert rank("pass").returncode == run_lock.RunLockedError.exit_code
        assert rank("pass", RANK="1").returncode == 0
        assert rank("pass", **{env_vars.LOCKED: "1"}).returncode == 0


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_late_does_not_undo_a_finished_rank(rank, signum):
    done = rank(f"""
        class Last:  # gone with the modules, when Python's own handlers no longer count
            def __del__(self, kill=os.kill, pid=os.getpid()):
                kill(pid, {int(signum)})
        sys.last = Last()
        rank, done = os.getpid(), os.pipe()
        if os.fork() == 0:  # and all the while between the end of the work and that of the process
            os.read(done[0], 1)
            while os.getppid() == rank:
                os.kill(rank, {int(signal.SIGUSR1)})
            os._exit(0)
        os.write(done[1], b"x")
        print("the last words")
    """)
    assert (done.returncode, done.stdout) == (0, "the last words\n")


@pytest.mark.parametrize("raised", ["CheckpointException('load', {})", "SystemExit(0)"])
def test_what_is_no_exception_fails_the_rank_as_well(rank, raised):
    done = rank(f"""
        class CheckpointException(BaseException):  # as torch's
            pass
        raise {raised}
    """)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_full_disk_is_one_line_with_the_remedy(rank):
    done = rank("with open('/dev/full', 'w') as file: file.write('a line of metrics')")
    assert done.returncode == 3
    assert done.stderr.startswith("error: a file of ")
    assert "not written: No space left on device; make room" in done.stderr
    assert done.stderr.count("\n") == 1
