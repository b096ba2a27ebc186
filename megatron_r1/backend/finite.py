"""A number that is not finite stops the run, and the message says on which rank and in which tensor.

Megatron's own check (DistributedDataParallelConfig.check_for_nan_in_grad) asserts on a bucket of gradients
and names no tensor. This one costs nothing while all is well: loss and norm are at hand in every update.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from megatron_r1.errors import GateError


def require_finite(
    chunks: Sequence[torch.nn.Module], *, update: int, what: str, value: float, own: float = 0.0
) -> None:
    """GateError on all ranks unless `value`, which all ranks have alike, is finite.

    update: of this stage, from 1. what: the name of the value. own: this rank's share of it.
    """
    if math.isfinite(value):
        return
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, (math.isfinite(own), list(_bad_tensors(chunks))))
    # the data of the ranks whose own share is bad came first; sums have spread it to the others
    order = sorted(range(len(found)), key=lambda rank: (found[rank][0], not found[rank][1], rank))
    first, tensors = order[0], found[order[0]][1]
    where = f"{tensors[0]} and {len(tensors) - 1} more tensors" if tensors else "no weight and no gradient"
    raise GateError(
        f"update {update} of the stage: the {what} is {value}; on rank {first}, {where} are not finite. "
        "The run has diverged: lower optim.lr or raise optim.warmup_steps, and run again to go on from the "
        "last checkpoint"
    )


def _bad_tensors(chunks: Sequence[torch.nn.Module]) -> Iterator[str]:
    """Weights first: where one is bad, the gradients only follow."""
    named = [pair for chunk in chunks for pair in chunk.named_parameters()]
    yield from (f"the weight {name}" for name, weight in named if not weight.isfinite().all())
    for name, weight in named:
        gradient = vars(weight).get("main_grad")
        if gradient is not None and not gradient.isfinite().all():
            yield f"the gradient of {name}"
