"""The GRPO loss of each packed token, every published choice a named option.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coef KL     (DeepSeekMath, eq. 3)

r is the ratio of the policy to the policy that the batch was scored with. What holds for every loss of RL,
its metrics too, is in base.py.

It reads of batch.loss_inputs:
    advantages
    old_logprobs      None: the update is on-policy and r = exp(logprobs - detached logprobs), 1 with a
                      gradient
    ref_logprobs      needed unless kl is "none"
    rollout_logprobs  needed by rollout_correction, else only measured
    fresh             which tokens count in the drift

Metrics besides:
    ratio             r, before any clipping: of the token or of its sequence
    clip_low          share whose gradient clipping removed below: r < 1 - clip_low and A < 0
    clip_high         share whose gradient clipping removed above: A > 0 and r > 1 + clip_high, or > delta
                      where that is lower
                      (cispo keeps all gradients: there the share of weights held at the bound, any A)
    clip_delta        share whose gradient delta removed: A < 0 and r above delta and 1 + clip_high
    clipped           share that any of these bounds acts on: their sum, no token has two
                      (sapo and vespo clip nothing and have none of the four)
    soft_weight       vespo's weight of the token's output
    correction        the weight that rollout_correction gives
    off_policy        share dropped by off_policy_threshold
"""

# T packed tokens

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from megatron_r1.rl.base import LossConfig, k3, masked_difference, old_logprobs
from megatron_r1.rl.sequences import sequence_mean, sequence_sum
from megatron_r1.rl.soft import Sapo, Vespo, sapo_loss, vespo_weight
from megatron_r1.types import PackedBatch


class GrpoLoss(LossConfig):
    """The policy loss of GRPO and of its descendants."""

    kind: Literal["grpo"] = "grpo"
    """GRPO and its descendants; the LOSS of a plug-in has a name of its own."""

    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of a token: its own (DeepSeekMath, 2402.03300), or its sequence's geometric mean
    (GSPO, 2507.18071, in the stop-gradient form GSPO-token)."""

    objective: Literal["clip", "cispo", "sapo", "vespo"] = "clip"
    """clip: PPO's minimum with the clipped ratio. cispo: the detached, clipped ratio weighs the
    log-prob, so no token loses its gradient (MiniMax-M1, 2506.13585, section 3.1). sapo: a smooth gate
    around a ratio of 1 (2511.20347). vespo: a smooth weight by the ratio of the whole output (2602.10693)."""

    clip_low: float = Field(default=0.2, ge=0)
    """The ratio is clipped below at 1 - clip_low; 1 or more: no lower bound (R1's first RL stage has 10,
    CISPO trained without one)."""

    clip_high: float = Field(default=0.2, gt=-1)
    """The ratio is clipped above at 1 + clip_high. PPO 0.2; DAPO's clip-higher 0.28 (2503.14476); R1's
    first RL stage 10 (2501.12948). Below 0 with cispo only, whose cap may lie below 1: TRL's cap is
    epsilon_high itself, so its 0.2 is -0.8 here; ScaleRL's 4 to 8 (2510.13786) are 3 to 7."""

    delta: float | None = Field(default=None, gt=0)
    """Upper bound of the ratio before PPO's minimum, which leaves it unbounded where the advantage is
    negative (INTELLECT-2, 2505.07291, two-sided clipping: 4). Below 1 + clip_high, as 4 is beside R1's clip
    of 10, it bounds positive advantages too, and negative ones at 1 + clip_high. None: unbounded."""

    sapo: Sapo = Sapo()
    """The temperatures of sapo."""

    vespo: Vespo = Vespo()
    """The constants of vespo."""

    kl: Literal["none", "k1", "k2", "k3", "k3_weighted"] = "k3"
    """Estimator of KL(policy || reference) in the loss (joschu.net/blog/kl-approx.html). k3: DeepSeekMath
    eq. 4. k3_weighted: times the token's ratio, which makes the gradient unbiased off-policy (DeepSeek-V3.2,
    2512.02556, eq. 7). k2: half the square. k1: its gradient is zero on average, so it holds nothing back."""

    kl_coef: float = Field(default=0.001, ge=0, le=1e3)
    """Weight of the KL term (R1: 0.001)."""

    rollout_correction: Literal["none", "truncate", "mask"] = "none"
    """Weight of the policy term for the gap between trainer and sampler, w = exp(old - rollout). truncate:
    w held to [rollout_floor, rollout_cap] (TIS, fengyao.notion.site/off-policy-rl). mask: 0 outside that
    interval (IcePop, 2510.18855). The KL term is not weighted; vespo has w inside its own weight."""

    rollout_level: Literal["token", "sequence"] = "token"
    """w of a token: its own, or the product over its output (MIS, sequence-level truncation and masking:
    richardli.xyz/rl-collapse; TRL's sequence_truncate and sequence_mask)."""

    rollout_cap: float = Field(default=2.0, gt=0)
    """Upper end of the interval of rollout_correction (TIS: 2)."""

    rollout_floor: float = Field(default=0.0, ge=0)
    """Lower end of the interval of rollout_correction; 0: none (IcePop: 0.5)."""

    off_policy_threshold: float | None = Field(default=None, ge=0)
    """Drop the policy term of outputs with a negative advantage whose mean log(sampler / policy) is above
    this (DeepSeek-V3.2, 2512.02556, section 3.1; the sampler's are rollout_logprobs, or old_logprobs where
    there are none). None: keep all."""

    @model_validator(mode="after")
    def _bounds_fit_the_objective(self) -> Self:
        objective, changed = self.objective, self._changed()
        unused = [] if objective == "clip" else sorted(changed & {"delta"})
        if objective in ("sapo", "vespo"):
            unused += sorted(changed & {"clip_low", "clip_high"})
        unused += sorted((changed & {"sapo", "vespo"}) - {objective})
        for name in unused:
            text = f"{name}={getattr(self, name)} has no effect with objective={objective}; remove it"
            raise ValueError(text)
        if self.clip_high < 0 and objective == "clip":
            raise ValueError(f"clip_high={self.clip_high} is a cap below 1, which only objective=cispo has")
        if self.clip_high < -self.clip_low:
            low, high = 1 - self.clip_low, 1 + self.clip_high
            raise ValueError(f"the bounds cross: the lower is {low:g}, the upper {high:g}; raise clip_low")
        return self

    @model_validator(mode="after")
    def _levels_fit_together(self) -> Self:
        if self.rollout_floor > self.rollout_cap:
            floor, cap = self.rollout_floor, self.rollout_cap
            raise ValueError(f"rollout_floor={floor:g} is above rollout_cap={cap:g}; lower it")
        for name in ("ratio", "rollout_level"):
            if self.objective == "vespo" and getattr(self, name) == "sequence":
                text = f"{name}=sequence: objective=vespo makes the whole output's ratio from its tokens'"
                raise ValueError(f"{text}; set it to token")
        return self

    def _changed(self) -> set[str]:
        """The fields that aren't at their defaults; a resolved file names them all."""
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        return {name for name, default in defaults.items() if getattr(self, name) != default}

    @property
    def needs_reference(self) -> bool:
        """The batch must have ref_logprobs."""
        return self.kl != "none"

    @property
    def needs_rollout(self) -> bool:
        """The batch must have rollout_logprobs."""
        return self.rollout_correction != "none"

    def per_token(self, logprobs: Tensor, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The module's docstring has the loss and what it measures."""
        return _grpo(logprobs, batch, options=self)


LOSS = GrpoLoss


def grpo_loss(
    logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch, *, options: GrpoLoss
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss [T] before the weights, and metrics as (sum, count): LossConfig.function of these options.

    The pack must hold whole sequences: with context parallelism, gather before, slice after.
    """
    return options.function()(logprobs, entropy, batch)


def _grpo(logprobs: Tensor, batch: PackedBatch, *, options: GrpoLoss) -> tuple[Tensor, dict[str, Tensor]]:
    inputs = batch.loss_inputs
    response = batch.weights > 0  # [T]
    values: dict[str, Tensor] = {}
    advantage, old = inputs.required("advantages"), old_logprobs(logprobs, batch)
    token_log_ratio = masked_difference(logprobs, old, response)
    log_ratio = token_log_ratio
    if options.ratio == "sequence":
        # the value of the sequence's mean, the gradient of the token
        mean = sequence_mean(token_log_ratio.detach(), response, batch.cu_seqlens)
        log_ratio = mean + (token_log_ratio - token_log_ratio.detach())
    ratio = log_ratio.exp()
    values |= {"ratio": ratio, **clip_shares(ratio, advantage, options=options)}
    correction = None
    if options.rollout_correction != "none":
        log_weight = masked_difference(old, inputs.required("rollout_logprobs"), response)
        if options.rollout_level == "sequence":
            log_weight = sequence_sum(log_weight, response, batch.cu_seqlens)
        correction = values["correction"] = rollout_weight(log_weight, options=options)
    if options.objective == "vespo":
        weight = values["soft_weight"] = vespo_weight(
            token_log_ratio,
            advantage,
            response,
            batch.cu_seqlens,
            correction=correction,
            options=options.vespo,
        )
        loss = -weight * advantage * logprobs
    else:
        loss = policy_loss(ratio, logprobs, advantage, options=options)
        loss = loss if correction is None else loss * correction
    if options.off_policy_threshold is not None:
        sampler = old if inputs.rollout_logprobs is None else inputs.rollout_logprobs
        log_gap = masked_difference(sampler, logprobs.detach(), response)
        divergence = sequence_mean(log_gap, response, batch.cu_seqlens)
        dropped = (advantage < 0) & (divergence > options.off_policy_threshold)
        loss = torch.where(dropped, 0.0, loss)
        values["off_policy"] = dropped
    if options.kl != "none":
        log_gap = masked_difference(logprobs, inputs.required("ref_logprobs"), response)
        loss = loss + options.kl_coef * kl_estimate(log_gap, token_log_ratio, kind=options.kl)
    return loss, values


def policy_loss(ratio: Tensor, logprobs: Tensor, advantage: Tensor, *, options: GrpoLoss) -> Tensor:
    """[T] the negated objective without KL: PPO's minimum, CISPO's weighted log-prob, or SAPO's gate."""
    if options.objective == "sapo":
        return sapo_loss(ratio, advantage, options=options.sapo)
    clipped = ratio.clamp(1 - options.clip_low, 1 + options.clip_high)
    if options.objective == "cispo":
        return -clipped.detach() * advantage * logprobs
    if options.delta is not None:
        ratio = ratio.clamp(max=options.delta)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def clip_shares(ratio: Tensor, advantage: Tensor, *, options: GrpoLoss) -> dict[str, Tensor]:
    """[T] bool each: which tokens each bound acts on, and `clipped`, any of them; {} where none clips."""
    if options.objective in ("sapo", "vespo"):
        return {}
    low, high = 1 - options.clip_low, 1 + options.clip_high
    shares = {"clip_low": ratio < low, "clip_high": ratio > high}
    if options.objective == "clip":
        delta = math.inf if options.delta is None else options.delta
        shares = {
            "clip_low": (ratio < low) & (advantage < 0),
            "clip_high": (ratio > min(high, delta)) & (advantage > 0),
        }
        if options.delta is not None:
            shares["clip_delta"] = (ratio > max(high, delta)) & (advantage < 0)
    return shares | {"clipped": torch.stack(list(shares.values())).any(dim=0)}


def rollout_weight(log_weight: Tensor, *, options: GrpoLoss) -> Tensor:
    """[T] importance weight of trainer to sampler; log_weight: old_logprobs - rollout_logprobs, or a sum."""
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
