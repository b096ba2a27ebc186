"""The pretrain stage over a fake policy."""

import json

import pytest

from megatron_r1.errors import GateError, Interrupted
from megatron_r1.stages.pretrain import Pretrain
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import LOGPROB, FakePolicy, together


@pytest.fixture
def stage():
    def make(**changes):
        fields = {
            "kind": "pretrain", "data": {"chains": {"source": "arithmetic"}}, "steps": 3, "documents": 4,
            "sample_mask": True, "optim": {"lr": 1e-3},
        }  # fmt: skip
        return Pretrain.model_validate(fields | changes)

    return make


@pytest.fixture
def until(questions):
    """Train on until half of two held-out questions (answers 1 and 2) are right."""

    def make(**changes):
        evaluation = {"data": questions(["integer"] * 2, held_out="all"), "questions": 2, "max_new_tokens": 9}
        fields = {"metric": "eval/accuracy", "at_least": 0.5, "every": 2, "max_steps": 7}
        return fields | {"evaluation": evaluation} | changes

    return make


def answers(*pairs):
    return [f"<answer> {value} </answer>" for pair in pairs for value in pair]


def tokens(policy):
    return [[s.token_ids.tolist() for s in update] for update in policy.trained]


def weight_of(sequences):
    return sum(float(s.weights.sum()) for s in sequences)


def test_the_loss_is_the_mean_cross_entropy_of_a_token(stage, context):
    policy = FakePolicy()
    metrics = stage().run(context(policy))
    assert metrics["train/loss"] == pytest.approx(-LOGPROB)
    assert metrics["train/grad_norm"] == 2
    assert metrics["train/lr"] == 1e-3
    assert metrics.keys() == {
        "train/loss", "train/grad_norm", "train/lr", "train/tokens_per_s", "time/step_s",
    }  # fmt: skip


def test_weights_add_up_to_one_over_the_replicas(stage, context):
    config = stage(prompt_weight=0.25)
    alone = FakePolicy()
    config.run(context(alone))

    def run(replicas):
        policy = FakePolicy(replicas=replicas)
        metrics = config.run(context(policy))
        return policy, metrics

    (first, metrics), (second, _) = together(2, run)
    for step in range(3):
        assert weight_of(alone.trained[step]) == pytest.approx(1)
        assert weight_of(first.trained[step] + second.trained[step]) == pytest.approx(1)
        parts = tokens(first)[step] + tokens(second)[step]
        assert sorted(parts) == sorted(tokens(alone)[step])
    assert metrics["train/loss"] == pytest.approx(1)


def test_prompts_weigh_as_asked_relative_to_responses(stage, context):
    policy = FakePolicy()
    stage(prompt_weight=0.25).run(context(policy))
    weights = {round(float(w), 9) for update in policy.trained[:1] for s in update for w in s.weights}
    zero, prompt, response = sorted(weights)
    assert zero == 0  # the first token is never predicted
    assert prompt / response == pytest.approx(0.25, rel=1e-5)


def test_the_batch_of_a_step_does_not_depend_on_the_steps_before(stage, context):
    whole = FakePolicy()
    stage().run(context(whole))
    rest = FakePolicy()
    stage().run(context(rest, start_step=2, state={}))
    assert tokens(rest) == tokens(whole)[2:]


def test_an_interrupted_stage_saves_and_goes_on(stage, context):
    journal = FakeJournal(stop_after=2)
    with pytest.raises(Interrupted):
        stage().run(context(FakePolicy(), journal))
    assert [step for step, _ in journal.checkpoints] == [2]


def test_checkpoints_come_every_so_many_steps(stage, context):
    journal = FakeJournal()
    stage(steps=5, checkpoint_every=2).run(context(FakePolicy(), journal))
    assert [step for step, _ in journal.checkpoints] == [2, 4]


def test_without_a_sample_mask_documents_lie_end_to_end_in_windows(stage, context):
    masked, windowed = FakePolicy(), FakePolicy()
    stage(steps=1).run(context(masked))
    stage(steps=1, sample_mask=False, window=16).run(context(windowed))
    lengths = [len(s.token_ids) - 1 for s in windowed.trained[0]]
    assert set(lengths[:-1]) == {16}
    assert lengths[-1] <= 16
    documents = [token for s in masked.trained[0] for token in s.token_ids.tolist()]
    first, *others = (s.token_ids.tolist() for s in windowed.trained[0])
    assert first + [token for window in others for token in window[1:]] == documents
    assert weight_of(windowed.trained[0]) == pytest.approx(1)


def test_training_goes_on_until_the_metric_is_reached(stage, context, ids, until):
    says = answers((9, 9), (9, 9), (1, 9))  # none right after 3 steps and after 5, half of them after 7
    journal = FakeJournal()
    metrics = stage(until=until()).run(context(FakePolicy(map(ids, says)), journal))
    assert [step for step, m in journal.steps if "eval/accuracy" in m] == [3, 5, 7]
    assert metrics["eval/accuracy"] == 0.5


def test_training_stops_as_soon_as_the_metric_is_reached(stage, context, ids, until):
    policy = FakePolicy(map(ids, answers((1, 2))))
    stage(until=until()).run(context(policy))
    assert len(policy.trained) == 3


def test_training_gives_up_after_max_steps(stage, context, ids, until):
    policy = FakePolicy(map(ids, answers(*[(9, 9)] * 3)))
    with pytest.raises(GateError, match=r"stage zero: eval/accuracy is 0\.0 after 6 steps, below 0\.5"):
        stage(until=until(max_steps=6)).run(context(policy))
    assert len(policy.trained) == 6


def test_the_last_step_allowed_is_evaluated_too(stage, context, ids, until):
    policy = FakePolicy(map(ids, answers((9, 9), (9, 9), (1, 2))))
    stage(until=until(max_steps=6)).run(context(policy))  # 3, 5, and 6 although 2 steps are not over


def test_a_stage_resumed_where_it_had_reached_the_metric_is_done(stage, context, until):
    policy = FakePolicy()
    state = {"metrics": {"eval/accuracy": 0.5}}
    metrics = stage(until=until()).run(context(policy, start_step=3, state=state))
    assert policy.trained == []
    assert metrics["eval/accuracy"] == 0.5


def test_max_steps_below_steps_is_refused(until):
    with pytest.raises(ValueError, match=r"until\.max_steps=2 is below steps=3"):
        Pretrain.model_validate({
            "kind": "pretrain", "data": {"chains": {"source": "arithmetic"}}, "steps": 3, "documents": 4,
            "optim": {"lr": 1e-3}, "until": until(max_steps=2),
        })  # fmt: skip


def test_a_document_of_plain_text_is_learnt_whole(stage, context, ids, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "1 plus 2 is 3 ;"}) + "\n")
    policy = FakePolicy()
    stage(data={"text": {"source": "jsonl", "path": str(path)}}, documents=1, steps=1).run(context(policy))
    (document,) = policy.trained[0]
    assert document.token_ids.tolist()[1:] == ids("1 plus 2 is 3 ;")  # after BOS
    assert weight_of([document]) == pytest.approx(1)
