"""Weight mapping: a table of Megatron's weights and Hugging Face's tensors, used for both import and export.

A family lists its rows once (`weight_rows`); import, export, parameter counts and sharding all use them.
Megatron's names are those of its checkpoints, which are independent of layout and modules:
`decoder.layers.3.mlp.experts.7.linear_fc1.weight`, with layers and experts numbered over the whole model.

A join maps rows of Hugging Face's tensors to rows of Megatron's full tensor, as a list of segments. Import
copies them in one direction, export in the other; a rank's shard takes the segments that overlap it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Protocol


class Shard(Enum):
    """The axis that is divided over tensor ranks (for experts: over expert tensor ranks)."""

    COLUMN = 0  # the tensor's rows, the output features (Megatron's column-parallel linear)
    ROW = 1  # the tensor's columns, the input features (Megatron's row-parallel linear)
    NONE = -1  # every rank has the whole tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows source .. source + rows of Hugging Face's tensor `part`: target .. target + rows of Megatron's."""

    part: int
    source: int
    target: int
    rows: int


class Join(Protocol):
    """How Hugging Face's tensors are joined to one of Megatron's."""

    def segments(self, rows: int) -> list[Segment]:
        """The segments of a full tensor with so many rows."""
        ...


@dataclass(frozen=True, slots=True)
class Same:
    """One tensor, the same on both sides."""

    def segments(self, rows: int) -> list[Segment]:
        return [Segment(0, 0, 0, rows)]


@dataclass(frozen=True, slots=True)
class GateUp:
    """[gate; up]. The other order runs too, with logits off by 5."""

    def segments(self, rows: int) -> list[Segment]:
        half = rows // 2
        return [Segment(0, 0, 0, half), Segment(1, 0, half, half)]


@dataclass(frozen=True, slots=True)
class Qkv:
    """[q of group 0; k of group 0; v of group 0; q of group 1; ...], weight and bias alike."""

    groups: int  # key/value heads
    queries: int  # query heads a group
    head_dim: int

    def segments(self, rows: int) -> list[Segment]:
        width = self.head_dim
        sizes = (self.queries * width, width, width)
        assert rows == self.groups * sum(sizes), f"{rows} rows for {self}"
        found, target = [], 0
        for group in range(self.groups):
            for part, size in enumerate(sizes):
                found.append(Segment(part, group * size, target, size))
                target += size
        return found


@dataclass(frozen=True, slots=True)
class HalvesToPairs:
    """Heads whose last `rotated` rows are in halves in Hugging Face's tensor and in pairs in Megatron's.

    Megatron's RoPE for MLA rotates the pairs (0, 1), (2, 3), ..., as the released models do. A model that was
    saved with rope_interleave=False pairs (0, n / 2), (1, n / 2 + 1), ...: mixed up, logits are off by 3.7.
    """

    heads: int
    plain: int  # rows of a head before the rotated ones
    rotated: int

    def segments(self, rows: int) -> list[Segment]:
        size = self.plain + self.rotated
        assert rows == self.heads * size, f"{rows} rows for {self}"
        found, half = [], self.rotated // 2
        for start in range(0, rows, size):
            found.append(Segment(0, start, start, self.plain))
            first = start + self.plain
            for i in range(half):
                found.append(Segment(0, first + i, first + 2 * i, 1))
                found.append(Segment(0, first + half + i, first + 2 * i + 1, 1))
        return [segment for segment in found if segment.rows]


SAME, GATE_UP = Same(), GateUp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a family's table.

    megatron, hf: names with {layer}, {expert} and {depth} (the MTP depth, from 0).
    shape: of Megatron's full tensor. layers, experts: the values of {layer}, and the number of experts.
    engine: (suffix, its replacement) where Transformer Engine's modules name it differently (never run on a
    GPU). blocks: whether an FP8 export quantises it (as DeepSeek-V3's released files: every linear of a layer
    but the router and the MTP projection). fp32: kept in fp32 whatever the model's precision.
    """

    megatron: str
    hf: tuple[str, ...]
    shape: tuple[int, ...]
    join: Join = SAME
    shard: Shard = Shard.NONE
    layers: Sequence[int] = ()
    experts: int = 0
    engine: tuple[str, str] | None = None
    blocks: bool = False
    fp32: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor in the files that repeats another: compared on import, written on export if `exported`."""

    name: str
    of: str
    exported: bool


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of one layer and expert: a row with the numbers filled in."""

    megatron: str
    hf: tuple[str, ...]
    row: Row

    @property
    def shape(self) -> tuple[int, ...]:
        return self.row.shape

    def segments(self) -> list[Segment]:
        return self.row.join.segments(self.row.shape[0])

    def hf_shape(self, part: int) -> tuple[int, ...]:
        """The shape of Hugging Face's part-th tensor."""
        rows = sum(segment.rows for segment in self.segments() if segment.part == part)
        return (rows, *self.row.shape[1:])

    def engine_name(self) -> str | None:
        """The name in a checkpoint of Transformer Engine's modules; None if it is the same."""
        if self.row.engine is None:
            return None
        ours, theirs = self.row.engine
        return self.megatron.removesuffix(ours) + theirs


def expand(rows: Sequence[Row], *, num_layers: int) -> Iterator[Weight]:
    """Every weight of the model, in the order of the table and of the layers."""
    for row in rows:
        if not row.layers:
            assert "{" not in row.megatron, f"{row.megatron}: layers are missing"
            yield Weight(row.megatron, row.hf, row)
    for layer in sorted({layer for row in rows for layer in row.layers}):
        for row in rows:
            if layer in row.layers:
                yield from _of_layer(row, layer, depth=layer - num_layers)


def _of_layer(row: Row, layer: int, *, depth: int) -> Iterator[Weight]:
    for expert in range(max(1, row.experts)):
        numbers = {"layer": layer, "depth": depth, "expert": expert}
        yield Weight(row.megatron.format(**numbers), tuple(name.format(**numbers) for name in row.hf), row)


def num_parameters(rows: Sequence[Row]) -> int:
    """Parameters of all rows; a tied output layer has no row and so is not counted twice."""
    return sum(prod(row.shape) * max(1, len(row.layers)) * max(1, row.experts) for row in rows)
