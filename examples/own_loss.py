"""Your own loss: tapered off-policy REINFORCE (TOPR, 2503.14286).

    A >= 0:  -A log p(y)                           whatever the ratio: what went well is always learnt
    A < 0:   -A min(p(y) / p_old(y), cap) log p(y)   less and less, the rarer the completion has become

A loss is a section of the configuration (its keys, with types and a line of documentation each) that gives
each token its loss, and is picked by its kind: `loss: {kind: own_loss, cap: 1.0}`. See own_loss.yaml. What it
reports beside is `train/NAME`, which has its row in METRICS.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from megatron_r1.rl.base import LossConfig, masked_difference, old_logprobs
from megatron_r1.rl.sequences import sequence_sum
from megatron_r1.tracking.metrics import Metric
from megatron_r1.types import PackedBatch


class OwnLoss(LossConfig):
    """Tapered off-policy REINFORCE."""

    kind: Literal["own_loss"]

    cap: float = Field(default=1.0, gt=0)
    """The highest ratio of a completion with a negative advantage."""

    def per_token(self, logprobs: Tensor, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """[T] each; what every loss reports (ratio, kl, entropy, drift) needs no line here."""
        response, advantages = batch.weights > 0, batch.loss_inputs.required("advantages")
        log_ratio = masked_difference(logprobs.detach(), old_logprobs(logprobs, batch), response)
        ratio = sequence_sum(log_ratio, response, batch.cu_seqlens).exp()  # of each token's completion
        weight = torch.where(advantages < 0, ratio.clamp(max=self.cap), 1.0)
        capped = (advantages < 0) & (ratio > self.cap)
        return -weight * advantages * logprobs, {"capped": capped.to(logprobs.dtype)}


LOSS = OwnLoss
METRICS = {"train/capped": Metric("tokens of completions whose ratio the cap lowers", "share", "down")}
