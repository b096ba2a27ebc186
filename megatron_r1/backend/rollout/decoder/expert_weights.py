"""The weights of a layer's experts as one strided view over the live parameters, without a copy.

A grouped matrix product needs the experts' weights a fixed distance apart in memory. `lay_out` arranges a new
model so; DistributedDataParallel's buffer keeps it, in reverse order. Where the distances differ, as at the
edge of a bucket, `stacked` returns None.
"""

# E experts of a layer on this rank

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.moe.moe_layer import MoELayer
from torch import Tensor

ALIGNMENT_BYTES = 16  # torch's grouped product requires it of rows and strides


@dataclass(frozen=True, slots=True)
class Stack:
    """weights: [E, out, in]; expert i is at index i, or if reversed at index E - 1 - i."""

    weights: Tensor
    reversed: bool


def expert_weights(experts: Any, name: str) -> list[Tensor]:
    """The weights of linear layer `name` of each expert on this rank (SequentialMLP, or a grouped layer)."""
    if hasattr(experts, "local_experts"):
        return [getattr(expert, name).weight for expert in experts.local_experts]
    grouped = getattr(experts, name)
    return [getattr(grouped, f"weight{i}") for i in range(grouped.num_gemms)]


def lay_out(chunks: Sequence[GPTModel]) -> None:
    """Move each layer's experts into one contiguous tensor; values and Parameter objects stay the same."""
    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, MoELayer):
                for name in ("linear_fc1", "linear_fc2"):
                    weights = expert_weights(module.experts, name)
                    for weight, part in zip(weights, torch.stack([w.data for w in weights]), strict=True):
                        weight.data = part


def stacked(weights: Sequence[Tensor]) -> Stack | None:
    """One view of all; None where they aren't a fixed distance apart, contiguous and aligned."""
    first, last = weights[0], weights[-1]
    reverse = len(weights) > 1 and last.data_ptr() < first.data_ptr()
    ordered = list(reversed(weights)) if reverse else list(weights)
    width = first.element_size()
    addresses = [weight.data_ptr() for weight in ordered]
    steps = {after - before for before, after in pairwise(addresses)} or {first.nbytes}
    storages = {weight.untyped_storage().data_ptr() for weight in weights}
    if len(steps) > 1 or len(storages) > 1 or not all(weight.is_contiguous() for weight in weights):
        return None
    (step,) = steps
    aligned = (addresses[0], step, *(size * width for size in first.shape))
    if any(value % ALIGNMENT_BYTES for value in aligned):
        return None
    return Stack(
        ordered[0].detach().as_strided((len(weights), *first.shape), (step // width, first.shape[1], 1)),
        reverse,
    )
