"""Weight slices: the layout-free name of every piece of a weight, with its rows and columns.

Megatron's checkpoint description (ShardedTensor) doesn't depend on the layout, but stacks equal layers and
experts along leading axes. Here their indices go back into the name, as the weight tables of
megatron_r1/models write it: `decoder.layers.3.mlp.experts.7.linear_fc1.weight`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.models.weights import Weight

STACKED_LAYERS = re.compile(r"\blayers\.(?!\d)")
STACKED_EXPERTS = ".experts.experts."


@dataclass(frozen=True, slots=True)
class Place:
    """Rows and columns (None: a vector) of the whole weight."""

    name: str
    rows: range
    columns: range | None


@dataclass(frozen=True, slots=True)
class Piece:
    """This rank's slice of a weight; data is the live tensor [rows, columns]."""

    place: Place
    data: Tensor


def num_stacked(key: str) -> int:
    """Leading axes of a checkpoint's tensor that stack layers and experts."""
    return bool(STACKED_LAYERS.search(key)) + (STACKED_EXPERTS in key)


def name_of(key: str, stacked: Sequence[int]) -> str:
    """The name of one layer's or expert's weight; stacked: its indices along the leading axes."""
    numbers = list(stacked)
    if STACKED_LAYERS.search(key):
        key = STACKED_LAYERS.sub(f"layers.{numbers.pop(0)}.", key, count=1)
    if STACKED_EXPERTS in key:
        key = key.replace(STACKED_EXPERTS, f".experts.{numbers.pop(0)}.")
    assert not numbers, f"{key}: {stacked} are too many numbers"
    return key


def place_of(key: str, offsets: Sequence[int], sizes: Sequence[int]) -> Place:
    """offsets, sizes: of a chunk of the checkpoint's tensor, with the leading axes (of size 1)."""
    n = num_stacked(key)
    assert all(size == 1 for size in sizes[:n]), f"{key}: a chunk of several layers or experts: {sizes}"
    ranges = [range(start, start + size) for start, size in zip(offsets[n:], sizes[n:], strict=True)]
    return Place(name_of(key, offsets[:n]), ranges[0], ranges[1] if len(ranges) > 1 else None)


def pieces(chunks: Sequence[GPTModel]) -> Iterator[Piece]:
    """Every weight that this rank holds, the router's expert bias included."""
    for chunk in chunks:
        for shard in sharded_tensors(chunk.sharded_state_dict()):
            assert shard.data is not None
            axes = shard.prepend_axis_num
            assert axes == num_stacked(shard.key), f"{shard.key}: {axes} leading axes"
            place = place_of(shard.key, shard.global_offset, (1,) * axes + tuple(shard.local_shape))
            yield Piece(place, shard.data)


def sharded_tensors(state: Mapping[str, Any]) -> Iterator[ShardedTensor]:
    """The tensors of a sharded state; the two halves of a gated linear layer come separately."""
    for value in nested_values(state):
        built = nested_values(value.build()) if isinstance(value, ShardedTensorFactory) else (value,)
        yield from (part for part in built if isinstance(part, ShardedTensor))


def by_name(weights: Sequence[Weight]) -> dict[str, Weight]:
    """The weight table under both names of each weight: local modules and Transformer Engine."""
    table = {weight.megatron: weight for weight in weights}
    return table | {name: weight for weight in weights if (name := weight.engine_name()) is not None}
