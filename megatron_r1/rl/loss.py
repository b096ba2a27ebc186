"""The GRPO loss of each packed token, every published choice a named option.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coef KL     (DeepSeekMath, eq. 3)

r is the ratio of the policy to the policy that the batch was scored with. The function sees single
tokens; the mean over tokens and outputs lies in batch.weights (aggregate.py). Response tokens are those
of weight > 0; all others get a loss of exactly 0 and stay out of every metric.

Fields of the batch, [T] each, aligned with the labels:
    advantage         of the token's output
    old_logprobs      the trainer's, before the first update on these outputs; absent: the update is
                      on-policy and r = exp(logprobs - detached logprobs), 1 with a gradient
    ref_logprobs      the reference's; needed unless kl is "none"
    rollout_logprobs  of the engine that sampled; needed by rollout_correction, else only measured
    fresh             1 where the policy itself sampled the token, 0 where older weights did; absent: all 1

Metrics, each a mean over response tokens:
    kl                k3 of policy to reference (>= 0), whatever `kl` is in the loss
    kl_k1             logprobs - ref_logprobs: unbiased, noisy, can be negative
    ratio             r, before any clipping; 1 in the first update of a rollout
    clip_low          share whose gradient clipping removed below: r < 1 - clip_low and A < 0
    clip_high         share whose gradient clipping removed above: r > 1 + clip_high and A > 0
                      (cispo keeps all gradients: there the share of weights held at the bound, any A)
    clip_delta        share with A < 0 and r > delta (only with `delta`)
    clipped           share that any of these bounds acts on: their sum, no token has two
    entropy           of the policy's distribution, as the caller measured it
    drift             |old_logprobs - rollout_logprobs|: trainer against sampler with equal weights, so of
                      fresh tokens only;
                      the reported rollout/drift is exp of this mean (1: none; 1.05 is a usual limit)
    correction        the weight that rollout_correction gives
    off_policy        share dropped by off_policy_threshold
A maximum is not among them: metrics are added up over packs and ranks.
"""

# T packed tokens, N sequences in the pack

from functools import partial
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from megatron_r1.config.section import Section
from megatron_r1.types import LossFunction, PackedBatch


class GrpoLoss(Section):
    """The policy loss of GRPO and of its descendants."""

    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of a token: its own (DeepSeekMath, 2402.03300), or its sequence's geometric mean
    (GSPO, 2507.18071, in the stop-gradient form GSPO-token)."""

    objective: Literal["clip", "cispo"] = "clip"
    """clip: PPO's minimum with the clipped ratio. cispo: the detached, clipped ratio weighs the
    log-prob, so no token loses its gradient (MiniMax-M1, 2506.13585, section 3.1)."""

    clip_low: float = Field(default=0.2, ge=0)
    """The ratio is clipped below at 1 - clip_low; 1 or more: no lower bound (R1's first RL stage has 10,
    CISPO trained without one)."""

    clip_high: float = Field(default=0.2, ge=0)
    """The ratio is clipped above at 1 + clip_high. PPO 0.2; DAPO's clip-higher 0.28 (2503.14476); R1's
    first RL stage 10 (2501.12948)."""

    delta: float | None = None
    """Upper bound of the ratio where the advantage is negative, which PPO's minimum leaves unbounded;
    above 1 + clip_high (INTELLECT-2, 2505.07291, two-sided clipping). None: unbounded."""

    kl: Literal["none", "k1", "k2", "k3", "k3_weighted"] = "k3"
    """Estimator of KL(policy || reference) in the loss (joschu.net/blog/kl-approx.html). k3: DeepSeekMath
    eq. 4. k3_weighted: times the token's ratio, which makes the gradient unbiased off-policy (DeepSeek-V3.2,
    2512.02556, eq. 7). k2: half the square. k1: its gradient is zero on average, so it holds nothing back."""

    kl_coef: float = Field(default=0.001, ge=0)
    """Weight of the KL term (R1: 0.001)."""

    rollout_correction: Literal["none", "truncate", "mask"] = "none"
    """Weight of the policy term for the gap between trainer and sampler, w = exp(old - rollout). truncate:
    w held to [rollout_floor, rollout_cap] (TIS, fengyao.notion.site/off-policy-rl). mask: 0 outside that
    interval (IcePop, 2510.18855). The KL term is not weighted."""

    rollout_cap: float = Field(default=2.0, ge=1)
    """Upper end of the interval of rollout_correction (TIS: 2)."""

    rollout_floor: float = Field(default=0.0, ge=0, le=1)
    """Lower end of the interval of rollout_correction; 0: none (IcePop: 0.5)."""

    off_policy_threshold: float | None = Field(default=None, ge=0)
    """Drop the policy term of outputs with a negative advantage whose mean log(sampler / policy) is above
    this (DeepSeek-V3.2, 2512.02556, section 3.1; the sampler's are rollout_logprobs, or old_logprobs where
    there are none). None: keep all."""

    @model_validator(mode="after")
    def _delta_lies_above_the_clip(self) -> Self:
        if self.delta is not None and self.objective != "clip":
            raise ValueError(f"delta={self.delta} has no effect with objective={self.objective}; remove it")
        if self.delta is not None and self.delta <= 1 + self.clip_high:
            raise ValueError(f"delta={self.delta} must be above 1 + clip_high = {1 + self.clip_high}")
        return self

    @property
    def needs_reference(self) -> bool:
        """The batch must have ref_logprobs."""
        return self.kl != "none"

    @property
    def needs_rollout(self) -> bool:
        """The batch must have rollout_logprobs."""
        return self.rollout_correction != "none"

    def function(self) -> LossFunction:
        """The loss with these options, for Policy.train_step."""
        return partial(grpo_loss, options=self)


def grpo_loss(
    logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch, *, options: GrpoLoss
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss [T] before the weights, and metrics as (sum, count); the module's docstring has both.

    The pack must hold whole sequences: with context parallelism, gather before, slice after.
    """
    fields = batch.fields
    response = batch.weights > 0  # [T]
    values: dict[str, Tensor] = {}
    advantage = fields["advantage"]
    old = fields.get("old_logprobs", logprobs.detach())
    token_log_ratio = _difference(logprobs, old, response)
    log_ratio = token_log_ratio
    if options.ratio == "sequence":
        # the value of the sequence's mean, the gradient of the token
        mean = sequence_mean(token_log_ratio.detach(), response, batch.cu_seqlens)
        log_ratio = mean + (token_log_ratio - token_log_ratio.detach())
    ratio = log_ratio.exp()
    loss = policy_loss(ratio, logprobs, advantage, options=options)
    values |= {"ratio": ratio, **clip_shares(ratio, advantage, options=options)}

    sums: dict[str, Tensor] = {}
    if "rollout_logprobs" in fields:
        fresh = response & (fields["fresh"] > 0) if "fresh" in fields else response
        sums["drift"] = sum_and_count((old - fields["rollout_logprobs"]).abs(), fresh)
    if options.rollout_correction != "none":
        correction = rollout_weight(_difference(old, fields["rollout_logprobs"], response), options=options)
        loss = loss * correction
        values["correction"] = correction
    if options.off_policy_threshold is not None:
        sampler = fields.get("rollout_logprobs", old)
        divergence = sequence_mean(
            _difference(sampler, logprobs.detach(), response), response, batch.cu_seqlens
        )
        dropped = (advantage < 0) & (divergence > options.off_policy_threshold)
        loss = torch.where(dropped, 0.0, loss)
        values["off_policy"] = dropped
    if options.needs_reference or "ref_logprobs" in fields:
        log_gap = _difference(logprobs, fields["ref_logprobs"], response)
        values |= {"kl": k3(log_gap), "kl_k1": log_gap}
        if options.kl != "none":
            loss = loss + options.kl_coef * kl_estimate(log_gap, token_log_ratio, kind=options.kl)
    if entropy is not None:
        values["entropy"] = entropy
    sums |= {name: sum_and_count(value, response) for name, value in values.items()}
    return torch.where(response, loss, 0.0), sums


def policy_loss(ratio: Tensor, logprobs: Tensor, advantage: Tensor, *, options: GrpoLoss) -> Tensor:
    """[T] the negated objective without KL: PPO's clipped minimum, or CISPO's weighted log-prob."""
    clipped = ratio.clamp(1 - options.clip_low, 1 + options.clip_high)
    if options.objective == "cispo":
        return -clipped.detach() * advantage * logprobs
    if options.delta is not None:
        ratio = ratio.clamp(max=options.delta)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def clip_shares(ratio: Tensor, advantage: Tensor, *, options: GrpoLoss) -> dict[str, Tensor]:
    """[T] bool each: which tokens each bound acts on, and `clipped`, any of them."""
    below, above = ratio < 1 - options.clip_low, ratio > 1 + options.clip_high
    shares = {"clip_low": below, "clip_high": above}
    if options.objective == "clip":
        shares = {"clip_low": below & (advantage < 0), "clip_high": above & (advantage > 0)}
    if options.delta is not None:
        shares["clip_delta"] = (ratio > options.delta) & (advantage < 0)
    return shares | {"clipped": torch.stack(list(shares.values())).any(dim=0)}


def rollout_weight(log_weight: Tensor, *, options: GrpoLoss) -> Tensor:
    """[T] importance weight of trainer to sampler; log_weight = old_logprobs - rollout_logprobs."""
    weight = log_weight.exp()
    if options.rollout_correction == "truncate":
        return weight.clamp(options.rollout_floor, options.rollout_cap)
    inside = (weight >= options.rollout_floor) & (weight <= options.rollout_cap)
    return torch.where(inside, weight, 0.0)


def kl_estimate(log_gap: Tensor, log_ratio: Tensor, *, kind: str) -> Tensor:
    """[T] estimate of KL(policy || reference).

    log_gap: logprobs - ref_logprobs. log_ratio: logprobs - old_logprobs, the token's own.
    """
    if kind == "k1":
        return log_gap
    if kind == "k2":
        return log_gap.square() / 2
    return k3(log_gap) * (log_ratio.exp() if kind == "k3_weighted" else 1.0)


def sequence_mean(values: Tensor, mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[T] for each token the mean of `values` over the masked tokens of its sequence; 0 without any.

    values: [T], mask: [T] bool, cu_seqlens: [N + 1] offsets, the last is T.
    """
    lengths = cu_seqlens.diff()  # [N]
    owner = torch.arange(lengths.numel(), device=values.device)
    owner = owner.repeat_interleave(lengths, output_size=values.numel())  # [T]
    zeros = values.new_zeros(lengths.numel())
    total = zeros.index_add(0, owner, torch.where(mask, values, 0.0))
    count = zeros.index_add(0, owner, mask.to(values.dtype))
    return (total / count.clamp(min=1))[owner]


def k3(log_gap: Tensor) -> Tensor:
    """[T] Schulman's estimator of KL: exp(-x) + x - 1, never negative. x: logprobs - ref_logprobs."""
    return torch.exp(-log_gap) + log_gap - 1


def _difference(left: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    # masked before any exp: an overflow outside the response would turn 0 * inf into nan
    return torch.where(mask, left - right, 0.0)


def sum_and_count(values: Tensor, mask: Tensor) -> Tensor:
    """[2] of the masked values, without gradient: how a loss reports a mean."""
    total = torch.where(mask, values.detach(), 0.0).sum()
    return torch.stack([total, mask.sum().to(total.dtype)])
