"""NaN check: a loss or gradient that isn't finite stops the run; the message names the rank and the tensors.

Megatron's own check (DistributedDataParallelConfig.check_for_nan_in_grad) asserts on a bucket of gradients
and names no tensor. This one costs nothing while all is finite: every update computes the loss and the norm
anyway.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from megatron_r1.errors import GateError


def require_finite_loss(
    chunks: Sequence[torch.nn.Module], *, update: int, loss: float, own_loss: float
) -> None:
    """Call it before the optimizer step. update: of this stage, from 1. own_loss: this data-parallel
    rank's."""
    if not math.isfinite(loss):
        tensors = [*_bad_weights(chunks), *_bad_gradients(chunks)]
        _stop(
            f"update {update} of the stage: the loss is {loss}",
            tensors,
            is_origin=not math.isfinite(own_loss),
        )


def require_finite_gradient(chunks: Sequence[torch.nn.Module], *, update: int, norm: float) -> None:
    """Call it after the optimizer step; it names only gradients, since the step has spoilt the weights."""
    if not math.isfinite(norm):
        tensors = list(_bad_gradients(chunks))
        _stop(f"update {update} of the stage: the norm of the gradient is {norm}", tensors, is_origin=False)


def _stop(what: str, tensors: list[str], *, is_origin: bool) -> NoReturn:
    """Raise GateError on all ranks; a collective call, since all have the same loss and norm."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, (is_origin, tensors))
    # sums spread NaN to all ranks: prefer ranks whose own data gave it, then those with a tensor to name
    rank = min(range(len(found)), key=lambda rank: (not found[rank][0], not found[rank][1], rank))
    tensors = found[rank][1]
    where = "every weight and gradient is finite, so a sum of them overflowed"
    if tensors:
        where = f"on rank {rank}, {tensors[0]} is not finite, nor are {len(tensors) - 1} more tensors"
    raise GateError(
        f"{what}; {where}. The run has diverged: lower optim.lr or raise optim.warmup_steps, and run again "
        "to go on from the last checkpoint"
    )


def _bad_weights(chunks: Sequence[torch.nn.Module]) -> Iterator[str]:
    for chunk in chunks:
        yield from (
            f"the weight {n}" for n, weight in chunk.named_parameters() if not weight.isfinite().all()
        )


def _bad_gradients(chunks: Sequence[torch.nn.Module]) -> Iterator[str]:
    for chunk in chunks:
        for name, weight in chunk.named_parameters():
            gradient = vars(weight).get("main_grad")
            if gradient is not None and not gradient.isfinite().all():
                yield f"the gradient of {name}"
