"""The guards of grpo: what counts as a collapse, for how long, and what is said then."""

import logging

import pytest

from megatron_r1.errors import GateError
from megatron_r1.stages.grpo.collapse_checks import Guards, GuardWatch
from megatron_r1.types import Completion, Message, Prompt, Score, Scored

GOOD = {
    "train/zero_std_groups": 0.5, "train/ungradable_groups": 0.0, "train/reward": 0.3, "rollout/length": 40.0,
    "rollout/drift": 1.01,
}  # fmt: skip


def scored(text: str) -> Scored:
    prompt = Prompt("1", (Message("user", "3 + 4 = ?"),), "7", "integer")
    completion = Completion(prompt, [1], [2], [-1.0], text, True, 0)
    return Scored(completion, 0.0, {"accuracy": Score(0.0)})


@pytest.mark.parametrize(
    ("metric", "value", "guard"),
    [
        ("train/zero_std_groups", 1.0, "equal_rewards"),
        ("rollout/drift", 1.3, "drift"),
        ("rollout/drift", float("nan"), "drift"),
        ("rollout/length", 2.0, "min_length"),
    ],
)
def test_each_sign_stops_after_so_many_steps_in_a_row_and_shows_samples(metric, value, guard):
    watch = GuardWatch(Guards(action="stop", patience=3, drift=1.2, min_length=5), {})
    bad = {**GOOD, metric: value}
    watch.look("zero", 1, bad, [])
    watch.look("zero", 2, bad, [])
    watch.look("zero", 3, GOOD, [])  # a good step in between: counted anew
    watch.look("zero", 4, bad, [])
    watch.look("zero", 5, bad, [])
    with pytest.raises(GateError, match=rf"stage zero, step 6: for 3 steps .*\(guards\.{guard}\)") as error:
        watch.look("zero", 6, bad, [scored("I give up")])
    assert "reward 0.0, to '3 + 4 = ?': 'I give up'" in str(error.value)


def test_a_warning_comes_again_with_every_patience(caplog):
    watch = GuardWatch(Guards(patience=2), {})
    with caplog.at_level(logging.WARNING):
        for step in range(1, 6):
            watch.look("zero", step, {**GOOD, "train/zero_std_groups": 1.0}, [scored("no")])
    assert [message.split(":")[0] for message in caplog.messages] == [
        "stage zero, step 2",
        "stage zero, step 4",
    ]


def test_a_resumed_watch_goes_on_counting():
    guards = Guards(action="stop", patience=2)
    first = GuardWatch(guards, {})
    first.look("zero", 1, {**GOOD, "train/zero_std_groups": 1.0}, [])
    assert first.counts == {"equal_rewards": 1}
    with pytest.raises(GateError):
        GuardWatch(guards, first.counts).look("zero", 2, {**GOOD, "train/zero_std_groups": 1.0}, [])


def test_groups_without_signal_are_equal_or_ungradable_together():
    watch = GuardWatch(Guards(action="stop", patience=1), {})
    watch.look("zero", 1, {**GOOD, "train/zero_std_groups": 0.3, "train/ungradable_groups": 0.6}, [])
    with pytest.raises(GateError, match="70% of the groups can't be graded"):
        watch.look("zero", 2, {**GOOD, "train/zero_std_groups": 0.3, "train/ungradable_groups": 0.7}, [])


def test_what_is_not_configured_is_not_watched():
    guards = Guards(action="stop", patience=1, equal_rewards=False)
    bad = {**GOOD, "train/zero_std_groups": 1.0, "train/reward": 0.0, "rollout/length": 1.0}
    GuardWatch(guards, {}).look("zero", 1, bad, [])
