"""grpo's last updates: other questions and rewards from the right step on, and after an interruption too."""

import pytest

from megatron_r1.errors import Interrupted
from megatron_r1.stages.grpo.phases import first_final_step
from megatron_r1.stages.grpo.trainer import Grpo
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import FakePolicy

ANSWER = "<think> 1 plus 1 is 2 ; </think> <answer> 2 </answer>"


class LikesAll:
    """A reward model that gives every text 3."""

    def __init__(self):
        self.asked = []

    def score(self, documents):
        self.asked.append(len(documents))
        return [3.0] * len(documents)


@pytest.fixture
def stage(questions):
    def make(final_updates=4, **changes):
        general = questions(["general"] * 16, held_out="tenth")
        general["sums"] |= {"weight": 1, "held_out": "none"}
        fields = {
            "kind": "grpo", "data": questions(["integer"] * 16),
            "rewards": {"accuracy": {"tasks": ["integer"]}}, "loss": {"kl": "none"},
            "steps": 4, "questions": 2, "group_size": 2, "updates": 2, "optim": {"lr": 1e-3},
            "checkpoint_every": 1,
            "final": {
                "updates": final_updates, "data": {"general": general["sums"]},
                "rewards": {"helpful": {"model": "rm"}},
            },
        }  # fmt: skip
        return Grpo.model_validate(fields | changes)

    return make


def asked(journal):
    """Task and question of each step's prompts."""
    return [
        [(s.completion.prompt.task, s.completion.prompt.question) for s in scored[::2]]
        for _, scored in journal.sampled
    ]


@pytest.mark.parametrize(("updates", "first"), [(2, 3), (3, 3), (4, 2), (7, 1)])
def test_the_last_updates_are_counted_from_the_end_in_whole_steps(stage, updates, first):
    assert first_final_step(stage(updates)) == first


def test_general_questions_and_the_preference_reward_come_at_the_end(stage, context, ids):
    journal, model = FakeJournal(), LikesAll()
    stage().run(context(FakePolicy([ids(ANSWER)] * 16), journal, reward_models={"rm": model}.__getitem__))
    tasks = [{task for task, _ in step} for step in asked(journal)]
    assert tasks == [{"integer"}, {"integer"}, {"integer", "general"}, {"integer", "general"}]
    parts = [{name for s in scored for name in s.parts} for _, scored in journal.sampled]
    assert parts == [{"accuracy"}, {"accuracy"}, {"accuracy", "helpful"}, {"accuracy", "helpful"}]
    assert ["train/reward_helpful" in metrics for _, metrics in journal.steps] == [False, False, True, True]
    assert model.asked == [2, 2]  # the two outputs to each general question


def test_no_question_is_skipped_or_asked_again_at_the_change(stage, context, ids):
    journal = FakeJournal()
    stage().run(
        context(FakePolicy([ids(ANSWER)] * 16), journal, reward_models={"rm": LikesAll()}.__getitem__)
    )
    sums = [question for step in asked(journal) for task, question in step if task == "integer"]
    assert sums == [f"compute {i} + 1" for i in range(6)]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_stage_asks_what_the_uninterrupted_one_asks(stage, context, ids, stop):
    whole, first, second = FakeJournal(), FakeJournal(stop_after=stop), FakeJournal()
    models = {"rm": LikesAll()}.__getitem__
    stage().run(context(FakePolicy([ids(ANSWER)] * 16), whole, reward_models=models))
    with pytest.raises(Interrupted):
        stage().run(context(FakePolicy([ids(ANSWER)] * 16), first, reward_models=models))
    step, state = first.checkpoints[-1]
    stage().run(
        context(FakePolicy([ids(ANSWER)] * 16), second, reward_models=models, start_step=step, state=state)
    )
    assert asked(first) + asked(second) == asked(whole)


def test_a_reward_model_is_an_input_of_the_stage(stage):
    assert stage(init="dev3").inputs() == ["dev3", "rm"]
