"""The GRPO loss by hand and by its properties; TRL's numbers are in test_trl_parity.py."""

from dataclasses import replace
from math import log

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from megatron_r1.rl.losses import GrpoLoss
from megatron_r1.rl.sequences import sequence_mean
from megatron_r1.types import LossInput, LossInputs, PackedBatch

NO_KL = {"kl": "none"}


def make_batch(
    *, weights: list[float], lengths: list[int], **inputs: list[float] | Tensor | None
) -> PackedBatch:
    unused = torch.zeros(len(weights), dtype=torch.long)
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    tensors = {name: torch.as_tensor(value) for name, value in inputs.items() if value is not None}
    return PackedBatch(unused, unused, torch.tensor(weights), unused, offsets, LossInputs(**tensors))


def run(
    ratios: list[float], advantage: list[float], *, lengths: list[int] | None = None, **settings
) -> tuple[list[float], list[float], dict[str, float]]:
    """Loss and gradient of each token and the mean metrics, with policy / old as given and policy 1/2."""
    fields = {name: settings.pop(name, None) for name in ("ref_logprobs", "rollout_logprobs")}
    logprobs = torch.full((len(ratios),), log(0.5), requires_grad=True)
    old = logprobs.detach() - torch.tensor(ratios).log()
    batch = make_batch(
        weights=[1.0] * len(ratios),
        lengths=lengths or [len(ratios)],
        advantages=advantage,
        old_logprobs=old,
        **fields,
    )
    loss, sums = GrpoLoss(**(NO_KL | settings)).function()(logprobs, None, batch)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    return loss.tolist(), gradient.tolist(), {name: (v[0] / v[1]).item() for name, v in sums.items()}


def random_batch(*, seed: int = 0, order: list[int] | None = None) -> tuple[Tensor, Tensor, PackedBatch]:
    """Log-probs, entropy and a batch with all fields of four outputs, packed in the given order."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in (4, 7, 3, 6):
        logprobs = torch.randn(6, length, generator=generator, dtype=torch.float64) - 2
        advantage = torch.randn(1, generator=generator, dtype=torch.float64).expand(1, length)
        weight = torch.full((1, length), 1 / length, dtype=torch.float64)
        weight[0, :2] = 0  # the prompt
        rows.append(torch.cat([logprobs, advantage, weight]))
    rows = [rows[index] for index in order or range(4)]
    policy, old, reference, rollout, entropy, _, advantage, weight = torch.cat(rows, dim=1)
    inputs = LossInputs(
        advantages=advantage, old_logprobs=old, ref_logprobs=reference, rollout_logprobs=rollout
    )
    lengths = torch.tensor([0, *(row.shape[1] for row in rows)])
    unused = torch.zeros(len(policy), dtype=torch.long)
    return policy, entropy, PackedBatch(unused, unused, weight, unused, lengths.cumsum(0).int(), inputs)


def changed(batch: PackedBatch, **inputs: Tensor | None) -> PackedBatch:
    return replace(batch, loss_inputs=replace(batch.loss_inputs, **inputs))


EVERYTHING = [
    {"kl": "k3_weighted", "rollout_correction": "truncate", "off_policy_threshold": 0.1, "delta": 3.0},
    {"ratio": "sequence", "kl": "k3", "rollout_correction": "mask"},
    {"objective": "cispo", "kl": "k2"},
    {"kl": "k1", "clip_low": 10.0, "clip_high": 10.0, "delta": 4.0},
    {"objective": "sapo", "rollout_correction": "mask", "rollout_level": "sequence"},
    {"objective": "vespo", "rollout_correction": "truncate"},
]


def test_inside_the_clip_range_the_loss_is_minus_ratio_times_advantage():
    loss, gradient, metrics = run([0.9, 1.1], [2.0, -3.0])
    assert loss == pytest.approx([-1.8, 3.3])
    assert gradient == pytest.approx([-1.8, 3.3])  # d ratio / d logprob = ratio
    assert metrics["ratio"] == pytest.approx(1.0)


def test_the_clip_stops_the_gradient_only_where_the_step_would_go_further():
    # above with A > 0 and below with A < 0 are clipped; the other two are PPO's pessimistic sides
    loss, gradient, metrics = run([1.5, 1.5, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0])
    assert loss == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert gradient == pytest.approx([0, 1.5, -0.5, 0])
    assert metrics["clip_high"] == metrics["clip_low"] == 0.25
    assert metrics["clipped"] == 0.5


def test_clip_higher_moves_the_upper_bound_alone():
    loss, _, metrics = run([1.25, 0.5], [1.0, -1.0], clip_high=0.28)
    assert loss == pytest.approx([-1.25, 0.8])
    assert (metrics["clip_high"], metrics["clip_low"]) == (0, 0.5)


def test_eps_10_of_r1s_first_rl_stage_has_no_lower_bound_and_an_upper_one_at_11():
    loss, gradient, metrics = run([0.01, 10.0, 20.0], [-1.0, 1.0, 1.0], clip_low=10.0, clip_high=10.0)
    assert loss == pytest.approx([0.01, -10, -11])
    assert gradient == pytest.approx([0.01, -10, 0])
    assert metrics["clip_low"] == 0
    assert metrics["clip_high"] == pytest.approx(1 / 3)


def test_delta_bounds_the_ratio_of_a_negative_advantage():
    loss, gradient, metrics = run([3.0, 5.0, 5.0], [-1.0, -1.0, 1.0], delta=4.0)
    assert loss == pytest.approx([3, 4, -1.2])
    assert gradient == pytest.approx([3, 0, 0])
    assert metrics["clip_delta"] == metrics["clip_high"] == pytest.approx(1 / 3)
    assert metrics["clipped"] == pytest.approx(2 / 3)


def test_a_delta_below_the_clip_bounds_both_signs():
    # A > 0: min(r, delta); A < 0: the clip alone, for the minimum takes the larger of the two ratios
    loss, gradient, metrics = run([3.0, 5.0, 5.0, 12.0], [1.0, 1.0, -1.0, -1.0], clip_high=10.0, delta=4.0)
    assert loss == pytest.approx([-3.0, -4.0, 5.0, 11.0])
    assert gradient == pytest.approx([-3.0, 0.0, 5.0, 0.0])
    assert (metrics["clip_high"], metrics["clip_delta"], metrics["clipped"]) == (0.25, 0.25, 0.5)


@pytest.mark.parametrize("objective", ["sapo", "vespo"])
def test_soft_objectives_start_as_reinforce_and_fade_away_from_it(objective):
    _, gradient, metrics = run([1.0, 1.0], [2.0, -3.0], lengths=[1, 1], objective=objective)
    assert gradient == pytest.approx([-2.0, 3.0])
    assert "clipped" not in metrics
    _, gradient, _ = run([0.1, 6.0], [2.0, -3.0], lengths=[1, 1], objective=objective)
    assert 0 <= -gradient[0] < 0.5
    assert 0 <= gradient[1] < 0.5


def test_sapo_and_vespo_by_hand():
    loss, _, _ = run([1.5], [2.0], objective="sapo", sapo={"temperature_positive": 2.0})
    assert loss == pytest.approx([-2 * 2 * 0.7310586 * 2 / 2])  # 4 / tau * sigmoid(1) * A
    loss, _, metrics = run([2.0, 0.75], [-1.0, -1.0], objective="vespo")
    weight = 1.5**3 * 2.718281828 ** (2 * (1 - 1.5))  # of both tokens: w = 2 * 0.75
    assert loss == pytest.approx([weight * log(0.5)] * 2, rel=1e-5)
    assert metrics["soft_weight"] == pytest.approx(weight, rel=1e-5)


def test_cispo_s_cap_may_lie_below_one():
    _, gradient, metrics = run([0.1, 1.0], [2.0, -3.0], objective="cispo", clip_low=1.0, clip_high=-0.8)
    assert gradient == pytest.approx([-0.2, 0.6])
    assert metrics["clip_high"] == 0.5


def test_a_sequence_s_rollout_weight_is_the_product_of_its_tokens():
    rollout = [log(0.5) - log(1.5), log(0.5) - log(2.0), log(0.5)]  # on-policy: old = log 0.5
    settings = {"rollout_logprobs": rollout, "rollout_level": "sequence", "lengths": [2, 1]}
    loss, _, metrics = run([1.0] * 3, [1.0] * 3, rollout_correction="truncate", rollout_cap=2.5, **settings)
    assert loss == pytest.approx([-2.5, -2.5, -1.0])
    assert metrics["correction"] == pytest.approx(2.0)
    loss, _, _ = run([1.0] * 3, [1.0] * 3, rollout_correction="mask", rollout_cap=2.5, **settings)
    assert loss == pytest.approx([0.0, 0.0, -1.0])


def test_cispo_weighs_the_logprob_and_drops_no_gradient():
    # ratios 3 and 0.5 are held at 1.2 and 0.8; the log-prob is log 1/2
    loss, gradient, metrics = run([3.0, 0.5, 1.0], [1.0, -1.0, 1.0], objective="cispo")
    assert gradient == pytest.approx([-1.2, 0.8, -1.0])
    assert loss == pytest.approx([-1.2 * log(0.5), 0.8 * log(0.5), -log(0.5)])
    assert metrics["clip_high"] == metrics["clip_low"] == pytest.approx(1 / 3)


def test_a_sequence_ratio_is_the_geometric_mean_and_each_token_keeps_its_gradient():
    # sqrt(4 * 1) = 2 and sqrt(0.25 * 1) = 1/2
    options = {"ratio": "sequence", "clip_low": 10.0, "clip_high": 10.0}
    loss, gradient, _ = run([4.0, 1.0, 0.25, 1.0], [1.0, 1.0, 1.0, 1.0], lengths=[2, 2], **options)
    assert loss == pytest.approx([-2, -2, -0.5, -0.5])
    assert gradient == pytest.approx([-2, -2, -0.5, -0.5])


def test_a_sequence_ratio_is_clipped_as_a_whole():
    _, gradient, metrics = run([1.0, 2.25, 1.0, 1.0], [1.0] * 4, lengths=[2, 2], ratio="sequence")
    assert gradient == pytest.approx([0, 0, -1, -1])  # 1.5 is above 1.2
    assert metrics["clip_high"] == 0.5


def test_the_prompt_has_no_part_in_a_sequence_ratio():
    logprobs = torch.tensor([-9.0, -1.0, -1.0])
    fields = {"advantages": [1.0] * 3, "old_logprobs": [0.0, -1.0 - log(4), -1.0]}
    batch = make_batch(weights=[0, 0.5, 0.5], lengths=[3], **fields)
    loss, _ = GrpoLoss(ratio="sequence", clip_high=10.0, **NO_KL).function()(logprobs, None, batch)
    assert loss.tolist() == pytest.approx([0, -2, -2])


# policy 1/2, reference 1/4 and old 1/3: log gap log 2, ratio 3/2; gradients from d gap = d log ratio = 1
@pytest.mark.parametrize(
    ("kl", "value", "gradient"),
    [
        ("k1", log(2), 1.0),
        ("k2", log(2) ** 2 / 2, log(2)),
        ("k3", 1 / 2 + log(2) - 1, 1 - 1 / 2),
        ("k3_weighted", 1.5 * (log(2) - 1 / 2), 1.5 * (log(2) - 1 / 2) + 1.5 * 0.5),
    ],
)
def test_each_kl_estimator_by_hand(kl, value, gradient):
    loss, slope, metrics = run([1.5], [0.0], kl=kl, kl_coef=0.1, ref_logprobs=[log(0.25)])
    assert loss == pytest.approx([0.1 * value])
    assert slope == pytest.approx([0.1 * gradient])
    assert metrics["kl"] == pytest.approx(log(2) - 1 / 2)
    assert metrics["kl_k1"] == pytest.approx(log(2))


@pytest.mark.parametrize("kl", ["k2", "k3", "k3_weighted"])
def test_the_kl_gradient_is_exact_when_all_tokens_are_weighed_by_their_probability(kl):
    # sum over the vocabulary instead of sampling: k2's and weighted k3's gradients are those of the true
    # KL(policy || reference); plain k3's is that of KL(reference || policy), its known bias
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0)
    logits = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(0)
    forward = (reference.exp() * (reference - logprobs)).sum()
    backward = (logprobs.exp() * (logprobs - reference)).sum()
    (expected,) = torch.autograd.grad(forward if kl == "k3" else backward, logits, retain_graph=True)

    batch = make_batch(weights=[1.0] * 6, lengths=[6], advantages=[0.0] * 6, ref_logprobs=reference)
    loss, _ = GrpoLoss(kl=kl, kl_coef=1.0).function()(logprobs, None, batch)
    (gradient,) = torch.autograd.grad((logprobs.detach().exp() * loss).sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_truncation_holds_the_rollout_weight_at_the_cap_and_spares_the_kl():
    # old 1/2; sampler 1/4, 1/16, 1: weights 2, 8, 1/2
    fields = {"rollout_logprobs": [log(1 / 4), log(1 / 16), 0.0], "ref_logprobs": [log(1 / 4)] * 3}
    loss, gradient, metrics = run(
        [1.0] * 3, [1.0] * 3, rollout_correction="truncate", kl="k3", kl_coef=1.0, **fields
    )
    k3 = log(2) - 1 / 2
    assert loss == pytest.approx([k3 - 2, k3 - 2, k3 - 0.5])
    assert gradient == pytest.approx([0.5 - 2, 0.5 - 2, 0.5 - 0.5])
    assert metrics["correction"] == pytest.approx(1.5)


def test_truncation_raises_the_rollout_weight_to_the_floor():
    fields = {"rollout_logprobs": [log(2 / 3), 0.0]}  # weights 3/4, 1/2
    loss, _, _ = run([1.0] * 2, [1.0] * 2, rollout_correction="truncate", rollout_floor=0.6, **fields)
    assert loss == pytest.approx([-0.75, -0.6])


def test_masking_drops_tokens_outside_the_interval():
    fields = {"rollout_logprobs": [log(1 / 3), log(1 / 16), 0.0]}  # weights 3/2, 8, 1/2
    options = {"rollout_correction": "mask", "rollout_cap": 2.0}
    assert run([1.0] * 3, [1.0] * 3, **options, **fields)[0] == pytest.approx([-1.5, 0, -0.5])
    assert run([1.0] * 3, [1.0] * 3, **options, **fields, rollout_floor=0.6)[0] == pytest.approx([-1.5, 0, 0])


def test_drift_is_the_mean_distance_of_trainer_and_sampler_on_response_tokens():
    old, rollout = [-1.0, -1.0, -2.0], [-7.0, -1.5, -1.0]
    batch = make_batch(
        weights=[0, 1, 1], lengths=[3], advantages=[0.0] * 3, old_logprobs=old, rollout_logprobs=rollout
    )
    _, sums = GrpoLoss(**NO_KL).function()(torch.zeros(3), None, batch)
    assert sums["drift"].tolist() == [1.5, 2]  # 0.5 + 1.0 over two tokens


def test_only_negative_outputs_far_from_the_sampler_are_dropped():
    # the policy is 1/2; the sampler's 0.9 is log 1.8 = 0.59 above it, 0.6 is 0.18 above
    fields = {"rollout_logprobs": [log(0.9), log(0.9), log(0.6), log(0.9)]}
    loss, gradient, metrics = run(
        [1.0] * 4, [-1.0, -1.0, -1.0, 1.0], lengths=[2, 1, 1], off_policy_threshold=0.5, **fields
    )
    assert loss == gradient == pytest.approx([0, 0, 1, -1])
    assert metrics["off_policy"] == 0.5


def test_no_output_on_policy_and_none_without_advantage_counts_as_dropped():
    on_policy = run([1.0], [-1.0], off_policy_threshold=0.0)
    assert (on_policy[0], on_policy[2]["off_policy"]) == ([1.0], 0)
    far = run([1.0], [0.0], off_policy_threshold=0.0, rollout_logprobs=[log(0.9)])
    assert far[2]["off_policy"] == 0


def test_the_mean_over_the_output_decides_what_is_dropped():
    # log(0.9 / 0.5) = 0.59 and log(0.4 / 0.5) = -0.22: mean 0.18
    fields = {"rollout_logprobs": [log(0.9), log(0.4)]}
    assert run([1.0] * 2, [-1.0] * 2, off_policy_threshold=0.19, **fields)[0] == pytest.approx([1, 1])
    assert run([1.0] * 2, [-1.0] * 2, off_policy_threshold=0.18, **fields)[0] == pytest.approx([0, 0])


def test_without_old_logprobs_the_ratio_is_exactly_one_and_the_loss_minus_the_mean_advantage():
    logprobs, _, batch = random_batch()
    batch = changed(batch, old_logprobs=None)
    loss, sums = GrpoLoss(**NO_KL).function()(logprobs, None, batch)
    response = batch.weights > 0
    torch.testing.assert_close(
        loss[response].mean(), -batch.loss_inputs.required("advantages")[response].mean()
    )
    assert sums["ratio"][0] == sums["ratio"][1] == response.sum()
    assert sums["clip_low"][0] == sums["clip_high"][0] == 0


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_on_policy_gradient_is_that_of_reinforce(ratio):
    logprobs, _, batch = random_batch()
    batch = changed(batch, old_logprobs=None)
    logprobs.requires_grad_()
    loss, _ = GrpoLoss(ratio=ratio, **NO_KL).function()(logprobs, None, batch)
    (gradient,) = torch.autograd.grad((loss * batch.weights).sum(), logprobs)
    torch.testing.assert_close(gradient, -batch.loss_inputs.required("advantages") * batch.weights)


@pytest.mark.parametrize("kl", ["k2", "k3", "k3_weighted"])
def test_while_the_policy_is_the_reference_the_kl_is_exactly_zero_with_no_gradient(kl):
    logprobs, _, batch = random_batch()
    logprobs.requires_grad_()
    batch = changed(batch, ref_logprobs=logprobs.detach(), advantages=torch.zeros_like(batch.weights))
    loss, sums = GrpoLoss(kl=kl, kl_coef=1.0).function()(logprobs, None, batch)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert sums["kl"][0] == sums["kl_k1"][0] == loss.abs().max() == gradient.abs().max() == 0


@pytest.mark.parametrize("options", EVERYTHING)
def test_an_advantage_of_zero_gives_no_policy_gradient(options):
    logprobs, _, batch = random_batch()
    logprobs.requires_grad_()
    batch = changed(batch, advantages=torch.zeros_like(batch.weights))
    loss, _ = GrpoLoss(**options | {"kl_coef": 0.0}).function()(logprobs, None, batch)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("options", EVERYTHING)
def test_the_order_of_the_pack_does_not_matter(options):
    results = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        logprobs, entropy, batch = random_batch(order=order)
        logprobs.requires_grad_()
        loss, sums = GrpoLoss(**options).function()(logprobs, entropy, batch)
        (gradient,) = torch.autograd.grad((loss * batch.weights).sum(), logprobs)
        lengths = batch.cu_seqlens.diff().tolist()
        results.append(
            ([dict(zip(order, part.split(lengths), strict=True)) for part in (loss, gradient)], sums)
        )
    (first, first_sums), (second, second_sums) = results
    for one, other in zip(first, second, strict=True):
        for index in range(4):
            torch.testing.assert_close(one[index], other[index])
    torch.testing.assert_close(first_sums, second_sums)


@pytest.mark.parametrize("options", EVERYTHING)
def test_tokens_outside_the_response_can_hold_anything(options):
    logprobs, entropy, batch = random_batch()
    expected, sums = GrpoLoss(**options).function()(logprobs, entropy, batch)
    outside = batch.weights == 0
    names: tuple[LossInput, ...] = ("old_logprobs", "ref_logprobs", "rollout_logprobs")
    for name in names:
        batch.loss_inputs.required(name)[outside] = -1e4  # exp of the difference overflows
    entropy[outside] = torch.nan
    logprobs.requires_grad_()
    loss, sums_again = GrpoLoss(**options).function()(logprobs, entropy, batch)
    (gradient,) = torch.autograd.grad((loss * batch.weights).sum(), logprobs)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(sums_again, sums, rtol=0, atol=0)
    assert gradient.isfinite().all()
    assert gradient[outside].abs().max() == loss[outside].abs().max() == 0


@pytest.mark.parametrize("options", EVERYTHING)
def test_a_pack_of_padding_alone_gives_zeros_and_the_same_metrics(options):
    logprobs, entropy, batch = random_batch()
    _, sums = GrpoLoss(**options).function()(logprobs, entropy, batch)
    batch.weights.zero_()
    loss, empty = GrpoLoss(**options).function()(logprobs, entropy, batch)
    assert loss.abs().max() == 0
    assert empty.keys() == sums.keys()  # ranks add them up, so the names must agree
    assert all(value.tolist() == [0, 0] for value in empty.values())


def test_metrics_are_sums_and_counts_that_carry_no_gradient():
    logprobs, entropy, batch = random_batch()
    _, sums = GrpoLoss(**EVERYTHING[0]).function()(logprobs.requires_grad_(), entropy, batch)
    response = batch.weights > 0
    assert not any(value.requires_grad for value in sums.values())
    assert {value[1].item() for value in sums.values()} == {response.sum().item()}
    torch.testing.assert_close(sums["entropy"][0], entropy[response].sum())


def test_sequence_mean_by_hand():
    values = torch.tensor([9.0, 1.0, 3.0, 5.0, 7.0, 7.0])
    mask = torch.tensor([False, True, True, True, False, False])
    means = sequence_mean(values, mask, torch.tensor([0, 3, 4, 6], dtype=torch.int32))
    assert means.tolist() == [2, 2, 2, 5, 0, 0]


def test_a_missing_reference_is_an_error():
    batch = make_batch(weights=[1.0], lengths=[1], advantages=[1.0])
    assert GrpoLoss().needs_reference
    with pytest.raises(LookupError, match="needs ref_logprobs of each token, and the batch has advantages"):
        GrpoLoss().function()(torch.zeros(1), None, batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0.0}, "greater than 0"),
        ({"clip_high": -0.8}, "clip_high=-0.8 is a cap below 1, which only objective=cispo has"),
        ({"clip_high": -1.0, "objective": "cispo"}, "greater than -1"),
        ({"clip_high": -0.8, "objective": "cispo"}, "the bounds cross: the lower is 0.8, the upper 0.2"),
        ({"objective": "sapo", "clip_high": 0.3}, "clip_high=0.3 has no effect with objective=sapo"),
        ({"vespo": {"k_positive": 1.0}}, "has no effect with objective=clip; remove it"),
        ({"objective": "vespo", "ratio": "sequence"}, "ratio=sequence: objective=vespo makes"),
        ({"objective": "sapo", "sapo": {"temperature_positive": 0.0}}, "greater than or equal to 0.001"),
        ({"delta": 4.0, "objective": "cispo"}, "no effect with objective=cispo"),
        ({"clip_low": -0.1}, "greater than or equal to 0"),
        ({"rollout_cap": 0.5, "rollout_floor": 0.6}, "rollout_floor=0.6 is above rollout_cap=0.5"),
        ({"ratio": "word"}, "'token' or 'sequence'"),
        ({"beta": 0.1}, "Extra inputs"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        GrpoLoss(**options)


def test_the_defaults_are_the_papers():
    options = GrpoLoss()
    assert (options.ratio, options.objective, options.kl, options.kl_coef) == ("token", "clip", "k3", 0.001)
    assert (options.rollout_correction, options.delta, options.off_policy_threshold) == ("none", None, None)
