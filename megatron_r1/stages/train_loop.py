"""An update by cross entropy: what pretrain and sft share."""

import time
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from megatron_r1.stages.context import StageContext
from megatron_r1.types import PackedBatch, TrainSequence


def next_token_loss(
    logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """[T] cross entropy; the mean lies in the weights."""
    return -logprobs, {}


def supervised_update(
    context: StageContext, sequences: Sequence[TrainSequence], *, lr: float, mtp: bool
) -> dict[str, float]:
    """One update on this replica's sequences; the loss is the weighted mean over all replicas' tokens.

    Returns the metrics of the step.
    """
    began = time.perf_counter()
    total = context.policy.replicas.sum({"weight": float(sum(s.weights.sum() for s in sequences))})["weight"]
    batch = [replace(s, weights=s.weights / total) for s in sequences]
    stats = context.policy.train_step(batch, next_token_loss, lr=lr, mtp=mtp)
    elapsed_s = time.perf_counter() - began
    found = {
        "train/loss": stats.loss,
        "train/grad_norm": stats.grad_norm,
        "train/lr": lr,
        "train/tokens_per_s": stats.num_tokens / elapsed_s,
        "time/step_s": elapsed_s,
    }
    return found | {f"train/{name}": value for name, value in stats.metrics.items()}
