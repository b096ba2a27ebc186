"""One forward of a decoder through the pipeline ranks; all of them get the logits."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from megatron_r1.backend.parallel.process_groups import device

# hidden states of the stage before (None for the first) -> those of this stage; the last stage gives logits
Stage = Callable[[Tensor | None], Tensor]


def through_pipeline(
    stages: Sequence[Stage], *, hidden: tuple[int, ...], dtype: torch.dtype, logits: tuple[int, ...]
) -> Tensor:
    """stages: this rank's chunks in order; interleaved pipelines run the first of all ranks, then the second
    ...

    hidden, dtype: shape and type of what stages send. logits: the shape that the last stage returns and every
    rank gets.
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
    """Broadcast `found` of the last stage, float32 of this shape, to all pipeline ranks."""
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        assert found is not None
        return found
    found = torch.empty(shape, device=device()) if found is None else found.float().contiguous()
    group: Any = parallel_state.get_pipeline_model_parallel_group()
    dist.broadcast(found, parallel_state.get_pipeline_model_parallel_last_rank(), group=group)
    return found
