"""What a loss of RL is, and what is measured whatever the loss.

One file with a LOSS, in this folder or a plug-in, adds one; `loss: {kind: NAME}` of a grpo stage picks it:

    class MyLoss(LossConfig):
        kind: Literal["my_loss"]

        def per_token(self, logprobs, batch): ...

    LOSS = MyLoss

The function sees single tokens; the mean over tokens and outputs lies in batch.weights (aggregation.py).
Response tokens are those of weight > 0; all others get a loss of exactly 0 and stay out of every metric.

Metrics of every loss, each a mean over response tokens:
    ratio             of the policy to the policy that the batch was scored with; 1 in the first update of a
                      rollout
    kl                k3 of policy to reference (>= 0); where the batch has ref_logprobs
    kl_k1             logprobs - ref_logprobs: unbiased, noisy, can be negative
    entropy           of the policy's distribution, as the caller measured it
    drift             |old_logprobs - rollout_logprobs|: trainer against sampler with equal weights, so of
                      fresh tokens only;
                      the reported rollout/drift is exp of this mean (1: none; 1.05 is a usual limit)
A maximum is not among them: metrics are added up over packs and ranks.
"""

# T packed tokens

from functools import partial

import torch
from torch import Tensor

from megatron_r1.section import Section
from megatron_r1.types import LossFunction, PackedBatch


class LossConfig(Section):
    """A loss of RL."""

    kind: str
    """Which loss: the name of a LOSS, in megatron_r1/rl or a plug-in."""

    @property
    def needs_reference(self) -> bool:
        """The batch must have ref_logprobs: a reference model is kept."""
        return False

    @property
    def needs_rollout(self) -> bool:
        """The batch must have rollout_logprobs, by which the loss corrects for what the sampler drew from."""
        return False

    def per_token(self, logprobs: Tensor, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [T] before the weights, and what else it measures, [T] each, by the metric's name.

        logprobs: [T] of the model in training, with a gradient. The pack holds whole sequences. Tokens of
        weight 0 may hold anything, as long as nothing of other tokens depends on them.
        """
        raise NotImplementedError(f"{type(self).__name__}.per_token")

    def function(self) -> LossFunction:
        """The loss with these options, for Policy.train_step."""
        return partial(_measured, options=self)


def _measured(
    logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch, *, options: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss [T] before the weights, and metrics as (sum, count)."""
    response = batch.weights > 0  # [T]
    loss, own = options.per_token(logprobs, batch)
    values = _common(logprobs.detach(), entropy, batch, response) | own
    sums = {name: sum_and_count(value, response) for name, value in values.items()}
    return torch.where(response, loss, 0.0), _drift(logprobs.detach(), batch, response) | sums


def _common(
    logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch, response: Tensor
) -> dict[str, Tensor]:
    inputs = batch.loss_inputs
    values = {"ratio": masked_difference(logprobs, old_logprobs(logprobs, batch), response).exp()}
    if inputs.ref_logprobs is not None:
        log_gap = masked_difference(logprobs, inputs.ref_logprobs, response)
        values |= {"kl": k3(log_gap), "kl_k1": log_gap}
    if entropy is not None:
        values["entropy"] = entropy
    return values


def _drift(logprobs: Tensor, batch: PackedBatch, response: Tensor) -> dict[str, Tensor]:
    inputs = batch.loss_inputs
    if inputs.rollout_logprobs is None:
        return {}
    fresh = response if inputs.fresh is None else response & (inputs.fresh > 0)
    gap = (old_logprobs(logprobs, batch) - inputs.rollout_logprobs).abs()
    return {"drift": sum_and_count(gap, fresh)}


def old_logprobs(logprobs: Tensor, batch: PackedBatch) -> Tensor:
    """[T] of the policy that the batch was scored with; on-policy these are the policy's own, detached."""
    old = batch.loss_inputs.old_logprobs
    return logprobs.detach() if old is None else old


def k3(log_gap: Tensor) -> Tensor:
    """[T] Schulman's estimator of KL: exp(-x) + x - 1, never negative. x: logprobs - ref_logprobs."""
    return torch.exp(-log_gap) + log_gap - 1


def masked_difference(left: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    """[T] left - right, 0 outside the mask: before any exp, whose overflow would turn 0 * inf into nan."""
    return torch.where(mask, left - right, 0.0)


def sum_and_count(values: Tensor, mask: Tensor) -> Tensor:
    """[2] of the masked values, without gradient: how a loss reports a mean."""
    total = torch.where(mask, values.detach(), 0.0).sum()
    return torch.stack([total, mask.sum().to(total.dtype)])
