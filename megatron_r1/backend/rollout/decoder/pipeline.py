"""One forward of a decoder through the pipeline's ranks, with the logits on all of them at the end."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from megatron_r1.backend.parallel.process_groups import device

# The hidden states of the stage before, None for the first -> this stage's; of the last stage logits.
Stage = Callable[[Tensor | None], Tensor]


def through_pipeline(
    stages: Sequence[Stage], *, hidden: tuple[int, ...], dtype: torch.dtype, logits: tuple[int, ...]
) -> Tensor:
    """stages: of this rank, in order: the model is the first of all ranks, then the second of all ranks ...

    hidden, dtype: of what goes from stage to stage. logits: the shape of what the last stage returns, which
    is what every rank gets.
    """
    size = parallel_state.get_pipeline_model_parallel_world_size()
    if size == 1:
        (stage,) = stages
        return stage(None)
    rank = parallel_state.get_pipeline_model_parallel_rank()
    found = None
    for i, stage in enumerate(stages):
        received = None
        if i > 0 or rank > 0:
            received = torch.empty(hidden, dtype=dtype, device=device())
            dist.recv(received, parallel_state.get_pipeline_model_parallel_prev_rank())
        output = stage(received)
        if i + 1 < len(stages) or rank + 1 < size:
            dist.send(output.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
        else:
            found = output
    return from_last_stage(found, logits)


def from_last_stage(found: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """What the ranks of the last stage have found, float32 of this shape, on all ranks."""
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        assert found is not None
        return found
    found = torch.empty(shape, device=device()) if found is None else found.float().contiguous()
    group: Any = parallel_state.get_pipeline_model_parallel_group()
    dist.broadcast(found, parallel_state.get_pipeline_model_parallel_last_rank(), group=group)
    return found
