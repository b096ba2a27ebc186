"""Ranks that hang: named with what they do, their stacks kept, the waiting ones not blamed."""

import os

import pytest

from megatron_r1.launch.supervisor import run_ranks

HANG = """
    from megatron_r1.runtime import signals, watchdog
    signals.install()
    watchdog.GRACE_S = 2.0
    watchdog.start(2.0, Path("logs"))
"""


@pytest.mark.slow
def test_a_rank_that_hangs_ends_with_its_own_code_and_says_where(script, tmp_path, caplog):
    command = script(
        HANG
        + """
    def busy():
        while True:
            time.sleep(0.01)
    beat("zero", 7)
    busy()
    """
    )
    assert run_ranks(command, ranks=1, log_dir=tmp_path / "logs", env=os.environ, handles_signals=True) == 9
    message = caplog.messages[-1]
    assert "made no progress for 2 s (watchdog_s); stage zero, step 7; it hangs in busy (" in message
    assert "busy" in (tmp_path / "logs" / "rank0.stacks").read_text()


@pytest.mark.slow
def test_steps_keep_a_rank_alive(script, tmp_path):
    command = script(
        HANG
        + """
    for step in range(8):
        time.sleep(0.5)
        beat("zero", step)
    """
    )
    assert run_ranks(command, ranks=1, log_dir=tmp_path / "logs", env=os.environ) == 0


@pytest.mark.slow
def test_a_rank_that_holds_the_interpreters_lock_ends_too(script, tmp_path):
    command = script(
        HANG.replace("watchdog.GRACE_S = 2.0", "watchdog.BACKUP_S = 1.0")
        + """
    import re
    beat("zero", 1)
    time.sleep(0.2)
    re.match("(a+)+$", "a" * 60 + "b")
    """
    )
    assert run_ranks(command, ranks=1, log_dir=tmp_path / "logs", env=os.environ) == 1
    assert "Timeout" in (tmp_path / "logs" / "rank0.stacks").read_text()


@pytest.mark.slow
def test_of_two_ranks_the_one_that_is_in_no_collective_is_to_blame(script, tmp_path, caplog):
    command = script("""
        import torch
        from megatron_r1.runtime import signals, watchdog
        signals.install()
        torch.distributed.init_process_group("gloo")
        torch.distributed.barrier()
        watchdog.start(3.0, Path("logs"))
        for step in range(10**9):
            beat("zero", step)
            if (RANK, step) == (1, 20):
                time.sleep(60)
            torch.distributed.all_reduce(torch.ones(4))
    """)
    assert run_ranks(command, ranks=2, log_dir=tmp_path / "logs", env=os.environ, handles_signals=True) == 9
    assert "error: rank 1 of 2 on " in caplog.messages[-1]
    assert "stage zero, step 20; it hangs in <module> (" in caplog.messages[-1]
    waiting = (tmp_path / "logs" / "rank0.log").read_text()
    assert "it waits in all_reduce for the other ranks" in waiting
    for rank in range(2):
        assert "File" in (tmp_path / "logs" / f"rank{rank}.stacks").read_text()
