"""Expert load of an update: tokens of the busiest expert over the mean of its layer.

Megatron's routers count the tokens of each expert over the micro-batches of an update, to move their bias
(DeepSeek-V3, section 2.1.2). finalize_model_grads clears the counts, so they are read just before.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

from megatron_r1.backend.parallel.process_groups import device


class ExpertLoad:
    """Wraps finalize_model_grads in the configuration of these chunks."""

    def __init__(self, chunks: Sequence[torch.nn.Module]) -> None:
        config: Any = chunks[0].config
        self.counted: bool = config.moe_router_enable_expert_bias
        self._routers = [m for chunk in chunks for m in chunk.modules() if isinstance(m, TopKRouter)]
        self._counts: list[Tensor] = []  # [num_experts] of each MoE layer on this rank
        self._finalize_model_grads = config.finalize_model_grads_func
        config.finalize_model_grads_func = self._finalize

    def _finalize(self, *args: Any, **options: Any) -> None:
        if self.counted:
            counts: list[Any] = [router.local_tokens_per_expert for router in self._routers]
            self._counts = [count.clone() for count in counts]
        self._finalize_model_grads(*args, **options)

    def measure(self) -> float:
        """The highest ratio of all MoE layers in the last update, on every rank. A collective call."""
        highest = torch.zeros((), device=device())
        if self._counts:
            counts = torch.stack(self._counts).float()  # [layers, num_experts]
            dist.all_reduce(
                counts, group=parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
            )
            mean = counts.mean(dim=1).clamp(min=1e-9)  # an untrained MTP layer counts 0 tokens
            highest = (counts.amax(dim=1) / mean).max()
        if parallel_state.get_pipeline_model_parallel_world_size() > 1:
            group = parallel_state.get_pipeline_model_parallel_group()
            dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group)
        return float(highest)
