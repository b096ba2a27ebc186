"""Objectives that weigh a token's gradient smoothly where others clip it.

    SAPO    (4 / tau) sigmoid(tau (r - 1)) A: a gate around r = 1 in place of the clip (2511.20347)
    VESPO   phi(w) A log p, phi(w) = w^k exp(lambda (1 - w)), w the ratio of the whole output (2602.10693)

Both have the gradient of REINFORCE where the policy is the one that sampled (r = w = 1).
"""

# T packed tokens

import math

import torch
from pydantic import Field
from torch import Tensor

from megatron_r1.rl.sequences import sequence_sum
from megatron_r1.section import Section

# of log w: exp can hold it, and phi is 0 at both ends for the published constants
LOWEST, HIGHEST = math.log(1e-8), 20.0


class Sapo(Section):
    """Soft adaptive policy optimisation (2511.20347): how sharply the gate closes away from r = 1."""

    temperature_positive: float = Field(default=1.0, ge=1e-3, le=1e3)
    """tau of tokens with a positive advantage."""

    temperature_negative: float = Field(default=1.05, ge=1e-3, le=1e3)
    """tau of the others; above the positive one, since their gradients raise many tokens at once."""


class Vespo(Section):
    """Variational sequence-level soft policy optimisation (2602.10693): phi's constants by the advantage's
    sign. k: how fast outputs that became rarer lose weight; lambda: those that became more frequent."""

    k_positive: float = Field(default=2.0, ge=0, le=100)
    """k of advantages of 0 and above."""

    lambda_positive: float = Field(default=3.0, ge=1e-4, le=100)
    """lambda of advantages of 0 and above."""

    k_negative: float = Field(default=3.0, ge=0, le=100)
    """k of negative advantages."""

    lambda_negative: float = Field(default=2.0, ge=1e-4, le=100)
    """lambda of negative advantages."""


def sapo_loss(ratio: Tensor, advantage: Tensor, *, options: Sapo) -> Tensor:
    """[T] the negated objective; its derivative by r is -4 s (1 - s) A, s the sigmoid: -A at r = 1."""
    temperature = torch.full_like(ratio, options.temperature_negative)
    temperature = temperature.masked_fill(advantage > 0, options.temperature_positive)
    return -torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature * advantage


def vespo_weight(
    log_ratio: Tensor,
    advantage: Tensor,
    response: Tensor,
    cu_seqlens: Tensor,
    *,
    correction: Tensor | None,
    options: Vespo,
) -> Tensor:
    """[T] phi of each token's output, without gradient.

    log_ratio: logprobs - old_logprobs. correction: the weight of trainer to sampler of each token
    (rollout_weight), which is a part of w here; None: 1.
    """
    log_w = sequence_sum(log_ratio.detach().clamp(-HIGHEST, HIGHEST), response, cu_seqlens)
    if correction is not None:
        log_w = log_w + sequence_sum(correction.log().clamp(LOWEST, HIGHEST), response, cu_seqlens)
    log_w = log_w.clamp(LOWEST, HIGHEST)
    good = advantage >= 0
    k = torch.full_like(log_w, options.k_negative).masked_fill(good, options.k_positive)
    decay = torch.full_like(log_w, options.lambda_negative).masked_fill(good, options.lambda_positive)
    return (decay + k * log_w - decay * log_w.exp()).exp()
