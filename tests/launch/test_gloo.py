"""A rank of a real process group is killed amid all-reduces."""

import os
import time

import pytest

from megatron_r1.launch.supervisor import run_ranks


@pytest.mark.slow
def test_the_killed_rank_of_a_gloo_group_is_named_within_30_s(script, tmp_path, caplog):
    command = script("""
        import torch
        torch.distributed.init_process_group("gloo")
        for step in range(10**9):
            beat("zero", step)
            if (RANK, step) == (2, 20):
                Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            torch.distributed.all_reduce(torch.ones(4))
    """)
    assert run_ranks(command, ranks=3, log_dir=tmp_path / "logs", env=os.environ) == 128 + 9
    assert time.time() - (tmp_path / "killed").stat().st_mtime < 30
    assert "rank 2 of 3" in caplog.messages[-1]
    assert "was killed by SIGKILL; stage zero, step 20" in caplog.messages[-1]


@pytest.mark.slow
def test_a_rank_that_stops_answering_is_named(script, tmp_path, caplog):
    command = script("""
        from datetime import timedelta
        import torch
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=3))
        for step in range(10**9):
            beat("zero", step)
            if (RANK, step) == (1, 20):
                time.sleep(60)
            torch.distributed.all_reduce(torch.ones(4))
    """)
    assert run_ranks(command, ranks=2, log_dir=tmp_path / "logs", env=os.environ) == 1
    assert "rank 1 was still running" in caplog.messages[-1]
    assert "rank 1: stage zero, step 20" in caplog.messages[-1]
