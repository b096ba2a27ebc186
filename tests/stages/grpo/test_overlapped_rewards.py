"""Rules that judge groups during the rollout: the same rewards, also of groups that nobody told of."""

import threading

import pytest

from megatron_r1.errors import GateError
from megatron_r1.rewards.accuracy import Accuracy
from megatron_r1.stages.grpo.trainer import Grpo
from megatron_r1.types import Score
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import FakePolicy


@pytest.fixture
def stage(questions):
    def make(**changes):
        fields = {
            "kind": "grpo", "data": questions(["integer"] * 16), "rewards": {"accuracy": {}}, "steps": 2,
            "questions": 2, "group_size": 2, "rollout": {"overlap_rewards": True}, "optim": {"lr": 1e-3},
        }  # fmt: skip
        return Grpo.model_validate(fields | changes)

    return make


@pytest.fixture
def texts(ids):
    """The first output to each of four questions is right."""
    answers = [(1, 9), (2, 9), (3, 9), (4, 9)]
    return [ids(f"<think> 1 ; </think> <answer> {a} </answer>") for pair in answers for a in pair]


class Watched:
    """Notes the thread and the group of each call; says that the first output of a group is right."""

    def __init__(self):
        self.calls = []

    def score(self, completions):
        self.calls.append((threading.current_thread().name.split("_")[0], len(completions)))
        return [Score(float(i % 2 == 0)) for i in range(len(completions))]


@pytest.mark.parametrize("told", [(), (3, 0, 2, 1), (0, 2, 3)])
def test_the_rewards_are_those_of_judging_afterwards(stage, context, texts, told):
    found, expected = FakeJournal(), FakeJournal()
    policy = FakePolicy(texts)
    policy.told = told
    stage().run(context(policy, found))
    stage(rollout={"overlap_rewards": False}).run(context(FakePolicy(texts), expected))
    assert [scored for _, scored in found.sampled] == [scored for _, scored in expected.sampled]
    assert [[s.reward for s in scored] for _, scored in found.sampled] == [[1, 0, 1, 0]] * 2


def test_a_group_is_judged_as_soon_as_its_last_output_has_ended(stage, context, texts, monkeypatch):
    watched = Watched()
    monkeypatch.setattr(Accuracy, "build", lambda self: watched)
    policy = FakePolicy(texts)
    policy.told = (0, 2, 3)  # the second group is complete, of the first an output is missing
    stage(steps=1).run(context(policy))
    assert sorted(watched.calls) == [("MainThread", 2), ("rewards", 2)]


def test_what_a_rule_raises_ends_the_run(stage, context, texts, monkeypatch):
    class Short:
        def score(self, completions):
            return []

    monkeypatch.setattr(Accuracy, "build", lambda self: Short())
    with pytest.raises(GateError, match="returned 0 scores for 2 completions"):
        stage().run(context(FakePolicy(texts)))
