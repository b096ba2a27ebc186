import os
import signal
import time

import pytest

from megatron_r1.launch.supervisor import run_ranks

from .conftest import alive, pids, wait_for


def run(command, tmp_path, *, ranks=2, **options):
    return run_ranks(command, ranks=ranks, log_dir=tmp_path / "logs", env=os.environ, **options)


def test_ranks_get_their_place_and_all_ending_well_is_zero(script, tmp_path, capfd):
    command = script("""
        names = "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
        print(*(os.environ[name] for name in names))
    """)
    assert run(command, tmp_path, ranks=3) == 0
    lines = [(tmp_path / f"logs/rank{rank}.log").read_text().splitlines()[-1].split() for rank in range(3)]
    assert [line[:5] for line in lines] == [[str(r), str(r), "3", "3", "127.0.0.1"] for r in range(3)]
    assert len({line[5] for line in lines}) == 1
    assert capfd.readouterr().out.splitlines() == [" ".join(lines[0])]  # rank 0 alone speaks on the terminal


def test_a_rank_that_fails_takes_the_others_down_and_is_named(script, tmp_path, caplog):
    command = script("""
        beat("zero", 12)
        if RANK == 1:
            print("no gold in this answer")
            sys.exit(3)
        time.sleep(60)
    """)
    start = time.monotonic()
    assert run(command, tmp_path, ranks=3) == 3
    assert time.monotonic() - start < 10
    assert not any(alive(pid) for pid in pids(tmp_path))
    message = caplog.messages[-1]
    assert f"rank 1 of 3 on {os.uname().nodename} ended with exit code 3; stage zero, step 12" in message
    assert message.index("no gold in this answer") < message.index("rank 1 of 3")


@pytest.mark.slow
def test_an_exception_shows_the_end_of_its_traceback(script, tmp_path, caplog):
    command = script("""
        if RANK == 1:
            raise ValueError("a shape that nobody expected")
        time.sleep(60)
    """)
    assert run(command, tmp_path) == 1
    assert "ValueError: a shape that nobody expected" in caplog.messages[-1]
    assert "before its first step" in caplog.messages[-1]


@pytest.mark.slow
def test_a_killed_rank_is_explained_with_its_signal(script, tmp_path, caplog):
    command = script("""
        if RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    """)
    assert run(command, tmp_path) == 128 + 9
    assert "rank 1 of 2" in caplog.messages[-1]
    assert "was killed by SIGKILL" in caplog.messages[-1]
    assert "memory" in caplog.messages[-1]


@pytest.mark.slow
def test_ranks_that_ignore_sigterm_are_killed_with_their_children_after_the_grace(script, tmp_path):
    command = script("""
        if RANK == 1:
            while not Path("rank9.pid").exists():
                time.sleep(0.01)
            sys.exit(3)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if (child := os.fork()):
            Path("new").write_text(str(child))
            os.rename("new", "rank9.pid")
        time.sleep(60)
    """)
    start = time.monotonic()
    assert run(command, tmp_path, grace_s=0.5) == 3
    assert time.monotonic() - start < 10
    assert len(pids(tmp_path)) == 3
    assert wait_for(lambda: not any(alive(pid) for pid in pids(tmp_path)), timeout_s=5)


def test_a_rank_that_lost_its_peer_is_not_blamed_even_if_it_dies_first(script, tmp_path, caplog):
    command = script("""
        if RANK == 0:
            sys.exit("RuntimeError: [gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")
        time.sleep(0.2)
        sys.exit(7)
    """)
    assert run(command, tmp_path) == 7
    assert "rank 1 of 2" in caplog.messages[-1]


@pytest.mark.slow
def test_if_all_lost_their_peers_the_last_heartbeats_are_shown(script, tmp_path, caplog):
    command = script("""
        beat("zero", 4 if RANK == 1 else 5)
        if RANK == 1:
            time.sleep(60)
        time.sleep(0.2)
        sys.exit("RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv")
    """)
    assert run(command, tmp_path) == 1
    assert "rank 1 was still running" in caplog.messages[-1]
    assert "rank 1: stage zero, step 4" in caplog.messages[-1]
    assert "rank 0: stage zero, step 5" in caplog.messages[-1]


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_before_the_handlers_are_there_waits_for_them(script, tmp_path, signum):
    command = script(f"""
        os.kill(os.getpid(), {int(signum)})  # as it may come while Python starts
        from megatron_r1.runtime import signals
        signals.install()
        print("stop", signals.stop_requested(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    """)
    assert run(command, tmp_path, ranks=1, handles_signals=True) == 0
    last = (tmp_path / "logs/rank0.log").read_text().splitlines()[-1]
    assert last == f"stop {signum != signal.SIGUSR2} set()"


@pytest.mark.slow
def test_survivors_log_where_they_were(script, tmp_path):
    command = script("""
        if RANK == 1:
            while not Path("ready").exists():
                time.sleep(0.01)
            sys.exit(3)
        from megatron_r1.runtime import signals
        signals.install()
        Path("ready").touch()
        def waiting_for_a_peer():
            time.sleep(60)
        waiting_for_a_peer()
    """)
    assert run(command, tmp_path, grace_s=0.5, handles_signals=True) == 3
    assert "in waiting_for_a_peer" in (tmp_path / "logs/rank0.log").read_text()


@pytest.mark.slow
def test_the_death_of_one_survivor_does_not_cut_the_grace_of_another_short(script, tmp_path):
    command = script("""
        if RANK == 0:
            time.sleep(0.5)  # until the handlers of the others are there
            sys.exit(3)
        ends = []
        def end(signum, frame):
            ends.append(signum)
            Path("ends").write_text(str(len(ends)))
        if RANK == 2:
            signal.signal(signal.SIGTERM, end)
        time.sleep(60)
    """)
    assert run(command, tmp_path, ranks=3, grace_s=2) == 3
    assert (tmp_path / "ends").read_text() == "1"


def test_logs_of_earlier_launches_are_kept_but_not_quoted(script, tmp_path, caplog):
    run(script("sys.exit('the first launch')"), tmp_path)
    run(script("sys.exit('the second launch')"), tmp_path)
    log = (tmp_path / "logs/rank0.log").read_text()
    assert log.index("the first launch") < log.index("the second launch")
    assert "the first launch" not in caplog.messages[-1]
    assert "the second launch" in caplog.messages[-1]


def test_heartbeats_of_earlier_launches_are_forgotten(script, tmp_path, caplog):
    run(script("beat('zero', 12)"), tmp_path)
    run(script("sys.exit(3)"), tmp_path)
    assert "before its first step" in caplog.messages[-1]


WRITES_A_CHECKPOINT = """
    from megatron_r1.runtime import signals
    signals.install()
    Path(f"ready{RANK}").touch()
    while not signals.stop_requested():
        time.sleep(0.01)
    Path(f"checkpoint{RANK}").touch()
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_lets_every_rank_write_its_checkpoint(script, launcher, tmp_path, signum):
    process = launcher(script(WRITES_A_CHECKPOINT + "    sys.exit(75)"), ranks=2)
    assert wait_for(lambda: len(list(tmp_path.glob("ready*"))) == 2)
    process.send_signal(signum)
    assert process.wait(timeout=20) == 75
    assert len(list(tmp_path.glob("checkpoint*"))) == 2
    assert "error" not in (tmp_path / "launcher.log").read_text()


def test_a_second_signal_ends_all_at_once(script, launcher, tmp_path):
    process = launcher(script(WRITES_A_CHECKPOINT + "    time.sleep(60)"), ranks=2)
    assert wait_for(lambda: len(list(tmp_path.glob("ready*"))) == 2)
    process.send_signal(signal.SIGINT)
    assert wait_for(lambda: len(list(tmp_path.glob("checkpoint*"))) == 2)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert time.monotonic() - start < 5
    assert not any(alive(pid) for pid in pids(tmp_path))


def test_a_killed_launcher_leaves_no_orphans(script, launcher, tmp_path):
    process = launcher(script("time.sleep(60)"), ranks=2)
    assert wait_for(lambda: len(pids(tmp_path)) == 2)
    process.kill()
    assert wait_for(lambda: not any(alive(pid) for pid in pids(tmp_path)), timeout_s=5)


def test_a_command_that_cannot_start_leaves_nothing_running(tmp_path):
    with pytest.raises(FileNotFoundError):
        run([str(tmp_path / "missing")], tmp_path)
