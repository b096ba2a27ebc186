"""The weights of a layer's experts as one tensor over the very parameters: nothing is copied while sampling.

One grouped product for all experts needs their weights a fixed distance apart. A new model's are laid out so
(`lay_out`), and training's buffer keeps it: DistributedDataParallel puts the parameters of a layer behind
each other, last first. Where the distances differ, as at the edge of a bucket, `stacked` finds none.
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

ALIGNMENT_BYTES = 16  # that torch's grouped product asks of rows and strides


@dataclass(frozen=True, slots=True)
class Stack:
    """weights: [E, out, in], expert i at place i, or if reversed at place E - 1 - i."""

    weights: Tensor
    reversed: bool


def expert_weights(experts: Any, name: str) -> list[Tensor]:
    """Of one linear layer of each expert here: modules of their own, or one grouped layer."""
    if hasattr(experts, "local_experts"):
        return [getattr(expert, name).weight for expert in experts.local_experts]
    grouped = getattr(experts, name)
    return [getattr(grouped, f"weight{i}") for i in range(grouped.num_gemms)]


def lay_out(chunks: Sequence[GPTModel]) -> None:
    """Move each layer's experts to lie behind each other; values and parameters stay what they are."""
    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, MoELayer):
                for name in ("linear_fc1", "linear_fc2"):
                    weights = expert_weights(module.experts, name)
                    for weight, place in zip(weights, torch.stack([w.data for w in weights]), strict=True):
                        weight.data = place


def stacked(weights: Sequence[Tensor]) -> Stack | None:
    """A view of them all, None where they don't lie a fixed distance apart, or not as the product asks."""
    first, last = weights[0], weights[-1]
    reverse = len(weights) > 1 and last.data_ptr() < first.data_ptr()
    ordered = list(reversed(weights)) if reverse else list(weights)
    width = first.element_size()
    places = [weight.data_ptr() for weight in ordered]
    steps = {after - before for before, after in pairwise(places)} or {first.nbytes}
    storages = {weight.untyped_storage().data_ptr() for weight in weights}
    if len(steps) > 1 or len(storages) > 1 or not all(weight.is_contiguous() for weight in weights):
        return None
    (step,) = steps
    aligned = (places[0], step, *(size * width for size in first.shape))
    if any(value % ALIGNMENT_BYTES for value in aligned):
        return None
    return Stack(
        ordered[0].detach().as_strided((len(weights), *first.shape), (step // width, first.shape[1], 1)),
        reverse,
    )
