"""The sft stage over a fake policy."""

import json

import pytest

from megatron_r1.errors import DataError, Interrupted
from megatron_r1.stages.sft import Sft
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import LOGPROB, FakePolicy, together


@pytest.fixture
def chats(tmp_path):
    """Ten chats, the i-th answered by i."""
    path = tmp_path / "chats.jsonl"
    turns = [[{"role": "user", "content": f"compute {i} + 0"}, {"role": "assistant", "content": f"{i}"}]
             for i in range(10)]  # fmt: skip
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in turns))
    return {"chats": {"source": "jsonl", "path": str(path), "shuffle": False}}


@pytest.fixture
def stage(chats):
    def make(**changes):
        fields = {"kind": "sft", "data": chats, "examples": 4, "epochs": 1, "optim": {"lr": 1e-3}}
        return Sft.model_validate({k: v for k, v in (fields | changes).items() if v is not None})

    return make


def tokens(policy):
    return [[s.token_ids.tolist() for s in update] for update in policy.trained]


def test_an_epoch_goes_through_the_data_once_and_fills_its_last_step(stage, context):
    policy, journal = FakePolicy(), FakeJournal()
    metrics = stage().run(context(policy, journal))
    assert journal.expected == 3  # 10 chats in steps of 4
    assert [step for step, _ in journal.steps] == [1, 2, 3]
    seen = [tuple(chat) for update in tokens(policy) for chat in update]
    assert len(set(seen)) == 10
    assert seen[10:] == seen[:2]
    assert metrics["train/loss"] == pytest.approx(-LOGPROB)


def test_half_epochs_and_plain_steps(stage, context):
    for fields, expected in (({"epochs": 2.5}, 7), ({"epochs": None, "steps": 2}, 2)):
        policy = FakePolicy()
        stage(**fields).run(context(policy))
        assert len(policy.trained) == expected


@pytest.mark.parametrize("fields", [{"epochs": 1.0, "steps": 2}, {"epochs": None}])
def test_a_length_is_given_in_one_way(stage, fields):
    with pytest.raises(ValueError, match="give exactly one of `epochs` and `steps`"):
        stage(**fields)


def test_the_rate_falls_by_a_cosine_over_all_epochs(stage, context):
    policy = FakePolicy()
    optim = {"lr": 1.0, "schedule": "cosine", "final_share": 0.0}
    stage(epochs=1.6, optim=optim).run(context(policy))
    assert policy.rates == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])  # (1 + cos(pi k / 4)) / 2


def test_replicas_share_a_step_s_chats_and_its_weights(stage, context):
    alone = FakePolicy()
    stage().run(context(alone))

    def run(replicas):
        policy = FakePolicy(replicas=replicas)
        stage().run(context(policy))
        return policy

    first, second = together(2, run)
    for step in range(3):
        both = first.trained[step] + second.trained[step]
        assert sum(float(s.weights.sum()) for s in both) == pytest.approx(1)
        assert sorted(tokens(first)[step] + tokens(second)[step]) == sorted(tokens(alone)[step])


def test_an_interrupted_stage_goes_on_with_the_same_batches(stage, context):
    whole, start, rest = FakePolicy(), FakePolicy(), FakePolicy()
    stage().run(context(whole))
    with pytest.raises(Interrupted):
        stage().run(context(start, FakeJournal(stop_after=1)))
    stage().run(context(rest, start_step=1))
    assert tokens(start) + tokens(rest) == tokens(whole)


def test_held_out_questions_are_asked_now_and_then_and_at_the_end(stage, context, questions, ids):
    evaluation = {"data": questions(["integer"], held_out="all"), "questions": 1, "max_new_tokens": 9}
    policy, journal = FakePolicy([ids("<answer> 1 </answer>")] * 9), FakeJournal()
    stage(evaluate={"every": 2, "evaluation": evaluation}).run(context(policy, journal))
    assert [step for step, m in journal.steps if m.get("eval/accuracy") == 1] == [2, 3]


def test_endless_data_has_no_epoch(stage, context):
    endless = stage(data={"chains": {"source": "arithmetic"}})
    with pytest.raises(DataError, match="stage zero: epochs: the data is endless"):
        endless.run(context(FakePolicy()))


def test_long_chats_are_left_out_and_counted_over_replicas_and_interruptions(tmp_path, stage, context):
    path = tmp_path / "lengths.jsonl"
    answers = ["1", "1 + 1 is 2", "1", "1 + 1 is 2"] * 2  # 7 tokens with their questions, and 11
    lines = [{"messages": [{"role": "user", "content": "compute 1 + 0"}, {"role": "assistant", "content": a}]}
             for a in answers]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"chats": {"source": "jsonl", "path": str(path), "shuffle": False}}

    def run(replicas):
        policy, journal = FakePolicy(replicas=replicas), FakeJournal()
        stage(data=data, max_chat_tokens=9).run(context(policy, journal, start_step=1, state={"too_long": 2}))
        return policy, journal

    (first, journal), (second, _) = together(2, run)  # the second replica has the long ones
    assert [m["train/too_long"] for _, m in journal.steps] == [4]
    assert len(first.trained[0]) == 2
    (idle,) = second.trained[0]
    assert float(idle.weights.sum()) == 0
    assert idle.padding == len(idle.token_ids) - 1, "no router counts it"
    assert sum(float(s.weights.sum()) for s in first.trained[0]) == pytest.approx(1)
    with pytest.raises(DataError, match="all 4 chats of step 1 have more than max_chat_tokens = 3 tokens"):
        stage(data=data, max_chat_tokens=3).run(context(FakePolicy()))


def test_the_loss_on_held_out_chats_is_the_mean_over_their_answers_tokens(stage, chats, context):
    held_out = {"data": {"chats": {**chats["chats"], "held_out": "all"}}, "chats": 3, "every": 2}
    policy, journal = FakePolicy(step_size=0.25), FakeJournal()
    stage(held_out=held_out).run(context(policy, journal))
    losses = {step: m["eval/loss"] for step, m in journal.steps if "eval/loss" in m}
    assert losses == pytest.approx({0: 1.0, 2: 0.5, 3: 0.25})  # every token's, before and after updates
    assert [name for name in policy.calls if name != "train"] == ["logprobs"] * 3
