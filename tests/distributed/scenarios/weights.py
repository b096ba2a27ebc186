"""Initial weights as whole tensors, whatever the layout."""

import hashlib
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.config.layout import Layout
from tests.distributed.scenarios import models


def initial_digests(layout: Layout, shared: Path, *, family: str) -> dict[str, str]:
    """SHA-256 of every weight, put together from the parts of all ranks."""
    pieces: list = [None] * dist.get_world_size()
    dist.all_gather_object(pieces, _pieces(models.policy(family, layout, seed=3)))
    whole: dict[str, torch.Tensor] = {}
    for key, shape, place, data in (piece for part in pieces for piece in part):
        target = whole.setdefault(key, torch.full(shape, torch.nan))
        target[tuple(slice(start, start + size) for start, size in place)] = data
    missing = [key for key, tensor in whole.items() if tensor.isnan().any()]
    assert not missing, f"parts are missing of {missing}"
    return {key: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for key, tensor in whole.items()}


def _pieces(policy: MegatronPolicy) -> list:
    found = []
    for chunk in policy.chunks:
        for value in nested_values(chunk.sharded_state_dict()):
            built = nested_values(value.build()) if isinstance(value, ShardedTensorFactory) else [value]
            for shard in built:
                if isinstance(shard, ShardedTensor):
                    size = (1,) * shard.prepend_axis_num + tuple(shard.data.shape)
                    place = list(zip(shard.global_offset, size, strict=True))
                    found.append((shard.key, shard.global_shape, place, shard.data.detach().view(size)))
    return found
