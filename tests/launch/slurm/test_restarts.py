"""What becomes of a job when its ranks end: done, back into the queue, or reported."""

import json
import time

import pytest

from megatron_r1.errors import ConfigError, GateError
from megatron_r1.launch.slurm import restarts
from megatron_r1.launch.slurm.restarts import Start, attempts, begin, end, mark_interrupted

AGAIN = 75


@pytest.fixture
def run(tmp_path):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "zero.srun").write_text("")
    return tmp_path


def start(run, restart: int, *, step: int, failed: str = "") -> Start:
    """A start that came to `step`; failed: what srun said of its tasks."""
    this = Start("17", restart)
    begin(run, "zero", this)
    beat = {"stage": "zero", "step": step, "time": time.time()}
    (run / "logs" / "rank1.json").write_text(json.dumps(beat))
    (run / "logs" / "rank1.log").write_text(
        f"=== rank 1 on node1\nold\n=== rank 1 on node2\nboom {restart}\n"
    )
    (run / "slurm" / "zero.srun").write_text(failed)
    return this


CRASH = "srun: error: node2: task 1: Segmentation fault (core dumped)\nsrun: error: node1: task 0: Killed\n"


def test_ranks_that_end_well_end_the_job(run):
    assert end(run, "zero", start(run, 0, step=6), code=0, max_restarts=5) == 0
    assert [one.outcome for one in attempts(run)] == ["done"]


def test_interrupted_ranks_put_the_job_back_into_the_queue_until_the_limit(run, capsys):
    for restart in range(3):
        this = start(run, restart, step=3)
        mark_interrupted(run, this)
        code = end(run, "zero", this, code=0, max_restarts=2)
        assert code == (AGAIN if restart < 2 else 76)
    assert "slurm.max_restarts = 2 is used up; submit again to go on" in capsys.readouterr().out


def test_the_mark_of_an_earlier_start_does_not_count(run):
    mark_interrupted(run, start(run, 0, step=3))
    later = start(run, 1, step=6)
    assert end(run, "zero", later, code=0, max_restarts=5) == 0


def test_a_failure_is_tried_again_but_not_twice_at_the_same_step(run, capsys):
    assert end(run, "zero", start(run, 0, step=2, failed=CRASH), code=139, max_restarts=9) == AGAIN
    assert end(run, "zero", start(run, 1, step=4, failed=CRASH), code=139, max_restarts=9) == AGAIN
    assert end(run, "zero", start(run, 2, step=4, failed=CRASH), code=139, max_restarts=9) == 139
    assert "the second time at this step" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ConfigError, GateError])
def test_what_a_person_must_mend_is_not_tried_again(run, error, capsys):
    failed = f"srun: error: node2: task 1: Exited with exit code {error.exit_code}\n"
    this = start(run, 0, step=2, failed=failed)
    assert end(run, "zero", this, code=error.exit_code, max_restarts=9) == error.exit_code
    assert "another try would end the same way" in capsys.readouterr().out


def test_the_culprits_log_of_this_start_comes_first_then_rank_node_stage_and_step(run, capsys):
    end(run, "zero", start(run, 0, step=4, failed=CRASH), code=139, max_restarts=9)
    text = capsys.readouterr().out
    assert "boom 0" in text
    assert "old" not in text
    assert "error: rank 1 of 2 on node2 was killed by SIGSEGV; stage zero, step 4" in text
    assert text.index("boom") < text.index("error: rank")


def test_srun_itself_may_fail(run, capsys):
    this = start(run, 0, step=0, failed="srun: error: Unable to create step: Invalid account\n")
    assert end(run, "zero", this, code=1, max_restarts=9) == AGAIN
    assert "Unable to create step" in capsys.readouterr().out


def test_ranks_as_srun_lists_them():
    assert restarts._ranks("0-2,5") == [0, 1, 2, 5]
