"""What real ranks allocate: parameters, gradients, the optimizer's state, and what a forward pass keeps."""

from pathlib import Path

import torch

from megatron_r1.backend.train.optimizer import parts
from megatron_r1.config.layout import Layout
from tests.distributed.scenarios import models


def allocated(layout: Layout, shared: Path, *, family: str, precision: str) -> dict[str, int]:
    """This rank's elements and bytes after an update, when Adam has made its state."""
    policy = models.policy(family, layout, precision=precision)
    policy.start_training(models.OPTIMIZER)
    mine = models.batch(0)[policy.replicas.index :: policy.replicas.count]
    policy.train_step(mine, lambda logprobs, entropy, batch: (-logprobs, {}), lr=1e-3)
    buffers = [b for model in policy.models for b in (*model.buffers, *model.expert_parallel_buffers)]
    states = [state for part in parts(policy.optimizer) for state in part.optimizer.state.values()]
    trained = {id(parameter) for chunk in policy.chunks for parameter in chunk.parameters()}
    masters = [
        parameter
        for part in parts(policy.optimizer)
        for group in part.optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) not in trained and not _in_buffers(parameter, buffers)
    ]
    return {
        "parameters": sum(p.numel() for chunk in policy.chunks for p in chunk.parameters()),
        "gradient_bytes": sum(_bytes(buffer.grad_data) for buffer in buffers),
        "moments": sum(_bytes(state[name]) for state in states for name in ("exp_avg", "exp_avg_sq")),
        "masters": sum(map(_bytes, masters)),
    }


def _in_buffers(parameter: torch.Tensor, buffers: list) -> bool:
    """Whether an fp32 parameter's part is a view into DDP's buffer and no copy of its own."""
    kept = [buffer.param_data for buffer in buffers if buffer.param_data is not None]
    storage = parameter.untyped_storage().data_ptr()
    return any(data.untyped_storage().data_ptr() == storage for data in kept)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
