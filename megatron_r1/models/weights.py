"""Which weight of Megatron is which tensor of Hugging Face: one row a weight, read in both directions.

A family lists its rows once (`weight_rows`); import and export, parameter counts and what a layout cuts all
come from them. Megatron's names are those of its checkpoints, which depend neither on the layout nor on the
modules: `decoder.layers.3.mlp.experts.7.linear_fc1.weight`, with the numbers of the whole model.

A join says how the rows of Hugging Face's tensors lie in Megatron's whole tensor, as a list of segments:
importing copies them one way, exporting the other, and a rank's part is the segments that it overlaps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Protocol


class Shard(Enum):
    """Which axis tensor ranks share (expert tensor ranks, for a weight of an expert)."""

    COLUMN = 0  # the rows: what a token's output is made of
    ROW = 1  # the columns: what a token's input is made of
    NONE = -1  # every rank has all of it


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows source .. source + rows of tensor `part` are rows target .. target + rows of Megatron's."""

    part: int
    source: int
    target: int
    rows: int


class Join(Protocol):
    """How tensors of Hugging Face lie in one of Megatron."""

    def segments(self, rows: int) -> list[Segment]:
        """Of a whole tensor with so many rows."""
        ...


@dataclass(frozen=True, slots=True)
class Same:
    """One tensor, the same on both sides."""

    def segments(self, rows: int) -> list[Segment]:
        return [Segment(0, 0, 0, rows)]


@dataclass(frozen=True, slots=True)
class GateUp:
    """[gate; up]: the other order runs as well and is off by 5 in the logits."""

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
    """Heads whose last `rotated` rows are two halves on the side of Hugging Face and pairs in Megatron.

    MLA's RoPE in Megatron reads (0, 1), (2, 3), ... as pairs. So do the released models; one that was saved
    with rope_interleave=False pairs (0, n / 2), (1, n / 2 + 1), ... A difference of 3.7 in the logits.
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

    megatron, hf: names with {layer}, {expert} and {depth} (of MTP: 0 for the first layer after the last).
    shape: of Megatron's whole tensor, all tensor ranks together. layers, experts: what the numbers run over.
    engine: the end of the name where Transformer Engine's modules give another one (never run on a GPU).
    blocks: whether an FP8 export quantises it (DeepSeek-V3's released files: every linear of a layer but
    the router and the MTP projection). fp32: kept in fp32 whatever the model's number format.
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
    """A tensor of the files that repeats another one: compared on import, written on export if `exported`."""

    name: str
    of: str
    exported: bool


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of one layer and expert: a row with its numbers filled in."""

    megatron: str
    hf: tuple[str, ...]
    row: Row

    @property
    def shape(self) -> tuple[int, ...]:
        return self.row.shape

    def segments(self) -> list[Segment]:
        return self.row.join.segments(self.row.shape[0])

    def hf_shape(self, part: int) -> tuple[int, ...]:
        """Of the part-th tensor on the side of Hugging Face."""
        rows = sum(segment.rows for segment in self.segments() if segment.part == part)
        return (rows, *self.row.shape[1:])

    def engine_name(self) -> str | None:
        """The name in a checkpoint of Transformer Engine's modules, where it differs."""
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
    """Of all rows together; a tied output layer counts once, as it has no row."""
    return sum(prod(row.shape) * max(1, len(row.layers)) * max(1, row.experts) for row in rows)
