"""Runs in which a reward says nothing: a word at the first step, an end in words, and no reward of 0."""

import logging

import pytest

from megatron_r1.errors import DataError, Interrupted
from megatron_r1.stages.evaluation.ungraded import IdleRewards, UngradedWatch
from megatron_r1.stages.grpo.trainer import Grpo
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import FakePolicy, together


def worked(answer):
    return f"<think> 1 plus 1 is 2 ; </think> <answer> {answer} </answer>"


@pytest.fixture
def stage(questions):
    def make(tasks, **changes):
        fields = {
            "kind": "grpo", "data": questions(tasks), "rewards": {"accuracy": {}, "format": {}},
            "steps": 3, "questions": 2, "group_size": 2, "optim": {"lr": 1e-3},
        }  # fmt: skip
        return Grpo.model_validate(fields | changes)

    return make


SAYS = [worked(i % 9) for i in range(40)]
NEVER = {"guards": {"action": "warn", "equal_rewards": False}}


@pytest.mark.parametrize(
    "changes",
    [{}, NEVER, {"groups": {"no_signal": "drop"}}, {"groups": {"no_signal": "resample", "max_rounds": 2}}],
)
def test_a_run_in_which_nothing_is_graded_ends_in_an_error_whatever_the_guards(
    stage, context, ids, caplog, changes
):
    policy, journal = FakePolicy(map(ids, SAYS * 4)), FakeJournal()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(DataError, match=r"in none of its 3 steps .* no verifier for the task 'intger'"),
    ):
        stage(["intger"] * 18, **changes).run(context(policy, journal))
    assert len([m for m in caplog.messages if "step 1: none of" in m and "'intger'" in m]) == 1
    assert all("train/reward" not in metrics for _, metrics in journal.steps), "none is not 0"
    assert [metrics["train/ungraded"] for _, metrics in journal.steps] == [1, 1, 1]
    assert "train" not in policy.calls


def test_after_patience_the_stage_ends_at_once(stage, context, ids):
    journal = FakeJournal()
    config = stage(["intger"] * 16, steps=9, guards={"patience": 2})
    with pytest.raises(DataError, match=r"step 2: for 2 steps no sample could be graded.*correct the task"):
        config.run(context(FakePolicy(map(ids, SAYS)), journal))
    assert len(journal.steps) == 1


def test_an_interruption_does_not_make_an_ungraded_run_a_finished_one(stage, context, ids):
    journal = FakeJournal(stop_after=3)
    config = stage(["intger"] * 16, checkpoint_every=99)
    with pytest.raises(Interrupted):
        config.run(context(FakePolicy(map(ids, SAYS)), journal))
    step, state = journal.checkpoints[-1]
    with pytest.raises(DataError, match=r"in none of its 3 steps.*intger"):
        config.run(context(FakePolicy(), start_step=step, state=state))


def test_one_graded_step_is_enough_and_the_rest_is_said(stage, context, ids, caplog):
    with caplog.at_level(logging.WARNING):
        metrics = stage(["intger"] * 3 + ["integer"] * 3).run(context(FakePolicy(map(ids, SAYS))))
    assert metrics["train/ungraded"] == 0
    assert "step 1: none of 4 samples" in caplog.text


def test_all_replicas_end_together(stage, context, ids):
    config = stage(["intger"] * 16, guards={"patience": 2})

    def run(replicas):
        with pytest.raises(DataError) as error:
            config.run(context(FakePolicy(map(ids, SAYS), replicas=replicas)))
        return str(error.value)

    first, second = together(2, run)
    assert first == second


def test_a_graded_sample_begins_the_count_anew():
    watch = UngradedWatch("s", patience=2)
    watch.look(1, num_samples=4, num_ungraded=4, reason="r")
    watch.look(2, num_samples=4, num_ungraded=3, reason="r")
    watch.look(3, num_samples=4, num_ungraded=4, reason="r")
    watch.look(4, num_samples=0, num_ungraded=0, reason="")
    watch.finish(4)
    watch.finish(0)


def test_a_reward_that_judges_nothing_beside_others_is_named_once(caplog):
    watch = IdleRewards("zero", patience=2)
    seen = [("format", "code"), ("format", ""), ("format", ""), ("format", ""), ("", "")]
    for judged, other in seen:
        names = [name for name in (judged, other) if name]
        watch.look(judged=names, idle=[n for n in ("format", "code") if n not in names], last=False)
    assert caplog.messages == [
        "stage zero: the reward code judged nothing in the last 2 steps, and format did; see whether its "
        "tasks match the data"
    ]
    watch = IdleRewards("zero", patience=20)
    watch.look(judged=["format"], idle=["code"], last=True)
    assert len(caplog.messages) == 2
