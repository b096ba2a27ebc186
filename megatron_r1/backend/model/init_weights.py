"""Random initial weights that depend only on the seed and the weight's name, so that all layouts agree.

Every weight is drawn as a whole tensor from its own generator and sliced to this rank's part, which
Megatron's checkpoint description (ShardedTensor) gives. Norms stay at 1, biases and buffers at 0.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer import TransformerConfig
from torch import Tensor

# The last projections of attention and MLP add to the residual stream and start smaller.
RESIDUAL_OUTPUTS = ("linear_proj.weight", "linear_fc2.weight")


def set_initial_weights(chunks: Sequence[GPTModel], *, seed: int, vocab_size: int) -> None:
    """Fill every weight of this rank's chunks. vocab_size: without the layout's padding; padded rows are
    0."""
    with torch.no_grad():
        for chunk in chunks:
            for shard in _shards(chunk):
                _fill(shard, chunk.config, seed, vocab_size)


def _shards(chunk: GPTModel) -> Iterator[ShardedTensor]:
    for value in nested_values(chunk.sharded_state_dict()):
        if isinstance(value, ShardedTensorFactory):
            yield from (part for part in nested_values(value.build()) if isinstance(part, ShardedTensor))
        elif isinstance(value, ShardedTensor):
            yield value


def _fill(shard: ShardedTensor, config: TransformerConfig, seed: int, vocab_size: int) -> None:
    data = shard.data
    assert data is not None
    if shard.key.endswith(".bias"):
        data.zero_()  # Megatron leaves it unset with perform_initialization=False
    if data.dim() < 2:  # norms and the router's expert bias are set already
        return
    axes = shard.prepend_axis_num  # stacked layers or experts: one draw each
    place = shard.global_offset[:axes]
    shape = shard.global_shape[axes:]
    generator = torch.Generator().manual_seed(_seed_of(shard.key, place, seed))
    rows = min(shape[0], vocab_size) if shard.allow_shape_mismatch else shape[0]
    whole = torch.randn(rows, *shape[1:], generator=generator) * _std(shard.key, config)
    if rows < shape[0]:
        whole = torch.cat([whole, torch.zeros(shape[0] - rows, *shape[1:])])
    data.copy_(_cut(whole, shard.global_offset[axes:], data))


def _cut(whole: Tensor, offset: Sequence[int], part: Tensor) -> Tensor:
    ranges = [
        slice(start, start + size) for start, size in zip(offset, part.shape[-len(offset) :], strict=True)
    ]
    return whole[tuple(ranges)].to(part.dtype)


def _std(key: str, config: TransformerConfig) -> float:
    assert config.init_method_std is not None
    if key.endswith("word_embeddings.weight"):
        return config.embedding_init_method_std or config.init_method_std
    if key.endswith(RESIDUAL_OUTPUTS):
        return config.init_method_std / math.sqrt(2 * config.num_layers)
    return config.init_method_std


def _seed_of(key: str, place: Sequence[int], seed: int) -> int:
    text = f"{seed}/{key}/{'/'.join(map(str, place))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
