"""Weight mapping between Hugging Face and Megatron, both ways; reads only the rows and columns asked for."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from megatron_r1.models.weights import Segment, Weight


class Reader(Protocol):
    """Reads slices of named tensors, such as Source."""

    def read(
        self, name: str, dtype: torch.dtype, *, rows: range | None = None, columns: range | None = None
    ) -> Tensor: ...


def to_megatron(
    reader: Reader, weight: Weight, dtype: torch.dtype, *, rows: range, columns: range | None = None
) -> Tensor:
    """Rows and columns of Megatron's whole tensor. Rows beyond it (the vocabulary's padding) are 0."""
    parts = [_overlap(segment, rows) for segment in weight.segments()]
    segments = [segment for segment in parts if segment.rows > 0]
    if len(segments) == 1 and segments[0].rows == len(rows):
        return reader.read(weight.hf[segments[0].part], dtype, rows=_source(segments), columns=columns)
    out: Tensor | None = None
    for part in sorted({segment.part for segment in segments}):
        mine = [segment for segment in segments if segment.part == part]
        span = _source(mine)
        block = reader.read(weight.hf[part], dtype, rows=span, columns=columns)
        out = block.new_zeros(len(rows), *block.shape[1:]) if out is None else out
        for segment in mine:
            start, first = segment.target - rows.start, segment.source - span.start
            out[start : start + segment.rows] = block[first : first + segment.rows]
    if out is None:  # padding alone
        width = weight.shape[1:] if columns is None else (len(columns),)
        return torch.zeros(len(rows), *width, dtype=dtype)
    return out


def to_hugging_face(weight: Weight, part: int, read: Callable[[range], Tensor]) -> Tensor:
    """The part-th tensor on the side of Hugging Face. read: rows of Megatron's whole tensor."""
    segments = [segment for segment in weight.segments() if segment.part == part]
    span = range(min(s.target for s in segments), max(s.target + s.rows for s in segments))
    block = read(span)
    if len(segments) == 1:
        return block
    out = block.new_empty(weight.hf_shape(part))
    for segment in segments:
        first = segment.target - span.start
        out[segment.source : segment.source + segment.rows] = block[first : first + segment.rows]
    return out


def _overlap(segment: Segment, rows: range) -> Segment:
    """What of the segment lies in these rows of Megatron's tensor; 0 rows or fewer: nothing."""
    start, stop = max(segment.target, rows.start), min(segment.target + segment.rows, rows.stop)
    return Segment(segment.part, segment.source + start - segment.target, start, stop - start)


def _source(segments: list[Segment]) -> range:
    return range(min(s.source for s in segments), max(s.source + s.rows for s in segments))
