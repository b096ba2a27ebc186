"""The grpo stage over a fake policy: what it asks, what it trains on and what it reports, worked by hand."""

import math

import pytest
import torch

from megatron_r1.errors import GateError, Interrupted
from megatron_r1.stages.grpo.trainer import Grpo
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import FakePolicy, together

K3 = math.exp(-0.3) + 0.3 - 1  # KL by k3 where the policy is 0.3 above the reference


def worked(answer):
    """A response in the right form; its chain of thought says nothing about the answer."""
    return f"<think> 1 plus 1 is 2 ; </think> <answer> {answer} </answer>"


def numbered(count):
    """Different outputs, so that a test can tell them apart."""
    return [worked(i % 20) + " ;" * (i // 20) for i in range(count)]


@pytest.fixture
def stage(questions):
    def make(tasks=("integer",) * 16, **changes):
        fields = {
            "kind": "grpo", "data": questions(tasks), "rewards": {"accuracy": {}},
            "steps": 1, "questions": 2, "group_size": 2, "optim": {"lr": 1e-3},
        }  # fmt: skip
        return Grpo.model_validate(fields | changes)

    return make


def trained_ids(policy):
    """The outputs of each update, as tuples of token ids, without those of weight 0."""
    return [[tuple(s.token_ids.tolist()) for s in u if s.weights.sum() > 0] for u in policy.trained]


def weight_of(sequences):
    return sum(float(s.weights.sum()) for s in sequences)


# ---- the order of a step


def test_a_step_samples_scores_and_updates_in_the_order_of_the_paper(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(4)))
    stage(updates=2).run(context(policy))
    drift_gate = "logprobs"
    assert policy.calls == [
        "refresh reference", "generate", drift_gate, "logprobs", "reference logprobs", "train", "train",
    ]  # fmt: skip


def test_one_update_a_step_needs_no_old_logprobs(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(8)))
    stage(steps=2).run(context(policy))
    assert policy.calls[-3:] == ["generate", "reference logprobs", "train"]
    assert policy.trained[0][0].loss_inputs.old_logprobs is None


def test_without_kl_there_is_no_reference(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(4)))
    stage(loss={"kl": "none"}).run(context(policy))
    assert policy.calls == ["generate", "logprobs", "train"]


def test_the_reference_is_refreshed_at_the_first_step_past_each_multiple(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(16)))
    stage(steps=4, updates=2, reference_every=3).run(context(policy))
    refreshed_after = [
        policy.calls[:i].count("train") for i, call in enumerate(policy.calls) if call == "refresh reference"
    ]
    assert refreshed_after == [0, 4, 6]


def test_the_length_limit_steps_up_by_updates(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(12)))
    stage(steps=3, updates=2, max_new_tokens={"steps": {0: 5, 4: 9}}).run(context(policy))
    assert [sampling.max_new_tokens for sampling in policy.samplings] == [5, 5, 9]


def test_the_learning_rate_warms_up_by_steps(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(8)))
    stage(steps=2, updates=2, optim={"lr": 1e-3, "warmup_steps": 2}).run(context(policy))
    assert policy.rates == [5e-4, 5e-4, 1e-3, 1e-3]


# ---- advantages and weights


def test_advantages_are_relative_to_the_group(stage, context, ids):
    policy = FakePolicy(map(ids, [worked(1), worked(9), worked(9), worked(9)]))
    stage().run(context(policy))
    given = len(policy.asked[0])
    advantages = [float(s.loss_inputs.required("advantages")[-1]) for s in policy.trained[0]]
    by_output = dict(zip(trained_ids(policy)[0], advantages, strict=True))
    first, second = ((*policy.asked[0], *ids(worked(answer))) for answer in (1, 9))
    assert by_output[first] == pytest.approx(1, abs=1e-5)  # (1 - 0.5) / 0.5
    assert by_output[second] == pytest.approx(-1, abs=1e-5)
    assert sorted(map(abs, advantages))[:2] == [0, 0]  # the second question's rewards are equal
    assert all(not s.weights[:given].any() for s in policy.trained[0]), "prompts are not trained on"


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "fixed_length"])
def test_the_weights_of_all_replicas_carry_the_normaliser(stage, context, ids, aggregation):
    long, short = worked(1), "1"
    config = stage(aggregation=aggregation, max_new_tokens={"steps": {0: 20}})

    def run(replicas):
        policy = FakePolicy(map(ids, [long, short]), replicas=replicas)
        config.run(context(policy))
        return policy.trained[0]

    outputs = [sequence for replica in together(2, run) for sequence in replica]
    lengths = [int((s.weights > 0).sum()) for s in outputs]
    assert sorted(lengths) == [2, 2, 12, 12]
    for sequence, length in zip(outputs, lengths, strict=True):
        expected = {"sequence_mean": 1 / (4 * length), "token_mean": 1 / 28, "fixed_length": 1 / (4 * 20)}
        assert sequence.weights.max() == pytest.approx(expected[aggregation])


def test_the_constant_of_fixed_length_holds_for_the_whole_step(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(4)))
    limits = {"steps": {0: 20, 1: 40}}  # the second update of the first step is past it
    stage(updates=2, aggregation="fixed_length", max_new_tokens=limits).run(context(policy))
    largest = [max(float(s.weights.max()) for s in update) for update in policy.trained]
    assert largest == pytest.approx([1 / (2 * 20)] * 2)


@pytest.mark.parametrize("options", [{"normalise": "batch"}, {"combine": "normalise_then_sum"}])
def test_statistics_of_the_batch_are_those_of_all_replicas(stage, context, ids, options):
    texts = [worked(1), worked(9), worked(2), "2"]  # both rewards differ in the second group
    config = stage(rewards={"accuracy": {"weight": 2}, "format": {}}, **options)

    def advantages(policies):
        trained = [s for policy in policies for update in policy.trained for s in update]
        found = {
            tuple(s.token_ids.tolist()): float(s.loss_inputs.required("advantages")[-1]) for s in trained
        }
        return dict(sorted(found.items()))

    def run(replicas):
        policy = FakePolicy(map(ids, texts[2 * replicas.index :]), replicas=replicas)
        config.run(context(policy))
        return policy

    alone = FakePolicy(map(ids, texts))
    config.run(context(alone))
    found = advantages([alone])
    assert advantages(together(2, run)) == pytest.approx(found, abs=1e-6)
    if "normalise" in options:  # rewards 3, 1 and 3, 0: of mean 2 and 1.5, all of variance 1.6875
        expected = [v / 1.6875**0.5 for v in (-1.5, -1, 1, 1.5)]
    else:  # 2 and -2; 2 + 1 and -2 - 1: of variance 6.5
        expected = [v / 6.5**0.5 for v in (-3, -2, 2, 3)]
    assert sorted(found.values()) == pytest.approx(expected, abs=1e-5)


def test_every_output_is_trained_on_once_an_inner_epoch(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(8)))
    stage(group_size=4, updates=4, inner_epochs=2).run(context(policy))
    updates = trained_ids(policy)
    outputs = {(*prompt, *ids(text)) for prompt, text in zip(policy.asked, numbered(8), strict=True)}
    assert [len(update) for update in updates] == [2] * 8
    for epoch in (updates[:4], updates[4:]):
        assert {output for update in epoch for output in update} == outputs
    assert updates[:4] != updates[4:], "each epoch has its own order"


def test_two_replicas_train_on_the_mini_batches_of_one(stage, context, ids):
    config = stage(group_size=4, updates=4)
    alone = FakePolicy(map(ids, numbered(8)))
    config.run(context(alone))

    def run(replicas):
        policy = FakePolicy(map(ids, numbered(8)[4 * replicas.index :]), replicas=replicas)
        config.run(context(policy))
        return policy

    first, second = together(2, run)
    assert alone.keys == first.keys + second.keys
    for whole, *parts in zip(trained_ids(alone), trained_ids(first), trained_ids(second), strict=True):
        assert sorted(whole) == sorted(parts[0] + parts[1])
    for update, *parts in zip(alone.trained, first.trained, second.trained, strict=True):
        assert weight_of(update) == pytest.approx(1)
        assert weight_of(parts[0]) + weight_of(parts[1]) == pytest.approx(1)


def test_a_replica_without_outputs_for_an_update_takes_part_with_weight_zero(stage, context, ids):
    config = stage(updates=4)

    def run(replicas):
        policy = FakePolicy(map(ids, numbered(4)[2 * replicas.index :]), replicas=replicas)
        config.run(context(policy))
        return policy

    first, second = together(2, run)
    for parts in zip(first.trained, second.trained, strict=True):
        assert sorted(weight_of(part) for part in parts) == [0, pytest.approx(1)]
        idle = next(part[0] for part in parts if not weight_of(part))
        busy = next(part[0] for part in parts if weight_of(part))
        assert idle.loss_inputs.names == busy.loss_inputs.names
        assert idle.padding == len(idle.token_ids) - 1, "no router counts it"


# ---- gates


@pytest.mark.parametrize(("gap", "drift"), [(0.1, "1.1052"), (2000.0, "inf")])
def test_the_drift_gate_stops_before_the_first_update(stage, context, ids, gap, drift):
    policy = FakePolicy(map(ids, numbered(4)), rollout_gap=gap)
    with pytest.raises(GateError, match=rf"drift {drift}, the limit is 1.05 \(gates.drift\)"):
        stage().run(context(policy))
    assert "train" not in policy.calls


def test_a_reference_of_other_weights_stops_before_the_first_update(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(4)), reference_gap=-0.3)
    with pytest.raises(GateError, match=rf"KL to the reference is {K3:.2e} .* 0\.001 \(gates\.kl\)"):
        stage().run(context(policy))
    assert "train" not in policy.calls


def test_a_training_pass_that_differs_from_the_scoring_pass_stops_the_run(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(4)), training_gap=0.1)
    with pytest.raises(GateError, match=rf"first update is {math.exp(0.1):.6f}, not 1 .* \(gates\.ratio\)"):
        stage(updates=2).run(context(policy))
    assert policy.calls.count("train") == 2  # of the first step


def test_a_small_drift_is_reported_and_passes(stage, context, ids):
    metrics = stage().run(context(FakePolicy(map(ids, numbered(4)), rollout_gap=0.04)))
    assert metrics["rollout/drift"] == pytest.approx(math.exp(0.04))


def evaluation(questions, **changes):
    fields = {"data": questions(["integer"] * 2, held_out="all"), "questions": 2, "max_new_tokens": 30}
    return {"every": 1, "evaluation": fields | changes}


def test_the_base_gate_stops_a_base_that_is_too_weak(stage, context, ids, questions):
    policy, journal = FakePolicy(map(ids, [worked(1), worked(9)])), FakeJournal()
    config = stage(evaluate=evaluation(questions), gates={"metric": "eval/accuracy", "at_least": 0.6})
    with pytest.raises(GateError, match=r"stage zero: the base has eval/accuracy 0\.5, below 0\.6"):
        config.run(context(policy, journal))
    assert journal.steps[0][0] == 0, "what was measured is kept"
    assert "train" not in policy.calls


def test_the_base_is_measured_once_and_then_every_so_often(stage, context, ids, questions):
    journal = FakeJournal()
    policy = FakePolicy(map(ids, numbered(2 + 3 * 4 + 2 * 2)))
    stage(steps=3, evaluate=evaluation(questions) | {"every": 2}).run(context(policy, journal))
    measured = [step for step, metrics in journal.steps if "eval/accuracy" in metrics]
    assert measured == [0, 2, 3]  # before any update, every second step, and at the end


# ---- what can't be graded, and groups without signal


def test_an_ungradable_question_leaves_the_update(stage, context, ids):
    policy = FakePolicy(map(ids, [worked(1), worked(9), worked(1), worked(2)]))
    metrics = stage(["integer", "astrology"]).run(context(policy))
    assert len(policy.trained[0]) == 2
    assert weight_of(policy.trained[0]) == pytest.approx(1)
    assert metrics["train/dropped_groups"] == 0.5
    assert metrics["train/reward"] == 0.5  # of the two that were graded
    assert metrics["train/reward_accuracy"] == 0.5


def test_a_step_without_any_gradable_output_makes_no_update(stage, context, ids):
    policy, journal = FakePolicy(map(ids, numbered(8))), FakeJournal()
    stage(["astrology", "astrology", "integer", "integer"], steps=2).run(context(policy, journal))
    assert policy.calls.count("train") == 1
    (_, first), (_, second) = journal.steps
    assert first["train/dropped_groups"] == 1
    assert "train/loss" not in first
    assert "train/loss" in second


EQUAL_THEN_MIXED = [worked(1), worked(1), worked(2), worked(9)]


@pytest.mark.parametrize(
    ("no_signal", "trained", "dropped", "equal", "asked"),
    [("keep", 4, 0, 1 / 2, 2), ("drop", 2, 1 / 2, 1 / 2, 2), ("resample", 4, 1 / 3, 1 / 3, 3)],
)
def test_groups_of_equal_rewards(stage, context, ids, no_signal, trained, dropped, equal, asked):
    policy, journal = FakePolicy(map(ids, [*EQUAL_THEN_MIXED, worked(3), worked(9)])), FakeJournal()
    config = stage(groups={"no_signal": no_signal}, checkpoint_every=1)
    metrics = config.run(context(policy, journal))
    assert len(policy.trained[0]) == trained
    assert weight_of(policy.trained[0]) == pytest.approx(1)
    assert metrics["train/dropped_groups"] == pytest.approx(dropped)
    assert metrics["train/zero_std_groups"] == pytest.approx(equal)
    assert journal.checkpoints[0][1]["questions_asked"] == asked


@pytest.mark.parametrize("balance", [False, True])
def test_a_replica_whose_groups_were_all_dropped_takes_part(stage, context, ids, balance):
    config = stage(groups={"no_signal": "drop"}, updates=2, balance=balance)

    def run(replicas):
        policy = FakePolicy(map(ids, EQUAL_THEN_MIXED[2 * replicas.index :]), replicas=replicas)
        return policy, config.run(context(policy))

    (first, metrics), (second, same) = together(2, run)
    shares = [[weight_of(update) for update in policy.trained] for policy in (first, second)]
    assert [sum(pair) for pair in zip(*shares, strict=True)] == [pytest.approx(1)] * 2
    assert (shares[0] == [0, 0]) is not balance  # balanced, it gets some of the other's
    assert metrics["train/loss"] == same["train/loss"]


# ---- metrics


def test_metrics_of_a_step_worked_by_hand(stage, context, ids):
    says = [worked(1), worked(9), "1 1 1", "so " * 40]  # 12, 12, 4 tokens, and cut at 20
    policy, journal = FakePolicy(map(ids, says), rollout_gap=0.02, step_size=0.3), FakeJournal()
    metrics = stage(
        rewards={"accuracy": {}, "format": {"weight": 0.2}},
        inner_epochs=2, max_new_tokens={"steps": {0: 20}}, loss={"kl_coef": 0.1},
    ).run(context(policy, journal))  # fmt: skip
    tokens = 12 + 12 + 4 + 20
    # the second update has the ratio e^0.3 = 1.35 everywhere; the gain of the right output is clipped at 1.2
    second_loss = (-1.2 + math.exp(0.3)) / 4 + 0.1 * K3
    expected = {
        "train/reward": (1.2 + 0.2 + 0 + 0) / 4,
        "train/reward_accuracy": 1 / 4,
        "train/reward_format": 2 / 4,
        "train/zero_std_groups": 1 / 2,
        "train/ungradable_groups": 0,
        "train/ungraded": 0,
        "train/dropped_groups": 0,
        "train/loss": (0 + second_loss) / 2,
        "train/grad_norm": 2,
        "train/kl": (0 + K3) / 2,
        "train/kl_k1": (0 + 0.3) / 2,
        "train/entropy": 0.5,
        "train/ratio": (1 + math.exp(0.3)) / 2,
        "train/clip_low": 0,
        "train/clip_high": (0 + 12 / tokens) / 2,
        "train/clipped": (0 + 12 / tokens) / 2,
        "train/lr": 1e-3,
        "rollout/length": tokens / 4,
        "rollout/length_max": 20,
        "rollout/cut": 1 / 4,
        "rollout/drift": math.exp(0.02),
        "refit/bytes": 0,
        "refit/seconds": 0,
    }
    measured = {name for name in metrics if name.startswith("time/") or name.endswith("per_s")}
    assert metrics.keys() - measured == expected.keys()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=2e-6)
    shares = sum(metrics[f"time/{part}"] for part in ("rollout", "reward", "logprobs", "train"))
    assert shares == pytest.approx(1)
    assert [step for step, scored in journal.sampled if len(scored) == 4] == [1]


def test_every_option_of_the_loss_reports_under_a_known_name(stage, context, ids):
    loss = {"delta": 2.0, "rollout_correction": "truncate", "off_policy_threshold": 0.5}
    metrics = stage(loss=loss).run(context(FakePolicy(map(ids, numbered(4)))))  # the journal checks names
    assert {"train/clip_delta", "train/correction", "train/off_policy"} <= metrics.keys()


def test_rewards_and_lengths_are_reported_by_domain_where_there_are_several(stage, context, ids, questions):
    (sums,) = questions(["integer"] * 4).values()
    (logic,) = questions(["exact"] * 4, held_out="tenth").values()
    short, long = worked(9), worked(9) + " ;"
    says = [short, worked(1), long, long]  # a question of each source, two outputs a question
    policy = FakePolicy(map(ids, says))
    journal = FakeJournal()
    stage(data={"sums": sums, "Logic-2": logic}).run(context(policy, journal))
    metrics = journal.steps[-1][1]
    assert metrics["train/reward_on_sums"] == 1 / 2
    assert metrics["train/reward_on_logic_2"] == 0
    assert metrics["rollout/length_on_logic_2"] == metrics["rollout/length_on_sums"] + 1


def test_metrics_come_in_the_same_order_every_time(stage, context, ids):
    names = [list(stage().run(context(FakePolicy(map(ids, numbered(4)))))) for _ in range(2)]
    assert names[0] == names[1]
    assert names[0].index("train/ratio") < names[0].index("train/kl") < names[0].index("train/entropy")


# ---- stopping and going on


def test_a_resumed_stage_asks_and_draws_what_the_whole_one_would_have(stage, context, ids):
    config = stage(steps=3, updates=2, max_new_tokens={"steps": {0: 20, 4: 21}}, checkpoint_every=99)
    whole = FakePolicy(map(ids, numbered(12)))
    config.run(context(whole))
    first, journal = FakePolicy(map(ids, numbered(4))), FakeJournal(stop_after=1)
    with pytest.raises(Interrupted):
        config.run(context(first, journal))
    step, state = journal.checkpoints[-1]
    rest = FakePolicy(map(ids, numbered(12)[4:]))
    config.run(context(rest, start_step=step, state=state))
    assert first.asked + rest.asked == whole.asked
    assert first.keys + rest.keys == whole.keys
    assert trained_ids(first) + trained_ids(rest) == trained_ids(whole)
    assert [s.max_new_tokens for s in rest.samplings] == [20, 21]
    assert "refresh reference" not in rest.calls, "the checkpoint holds the reference"


def test_no_question_is_asked_twice(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(16)))
    stage(steps=4).run(context(policy))
    assert len({tuple(prompt) for prompt in policy.asked}) == 8


def test_every_output_has_random_draws_of_its_own(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(16)))
    stage(steps=4).run(context(policy))
    assert len(set(policy.keys)) == 16


def test_only_the_response_carries_rollout_logprobs(stage, context, ids):
    policy = FakePolicy(map(ids, numbered(4)), rollout_gap=0.01)
    stage().run(context(policy))
    for sequence in policy.trained[0]:
        response = sequence.weights > 0
        given = sequence.loss_inputs.required("rollout_logprobs")
        torch.testing.assert_close(given, torch.where(response, -0.99, 0.0))
