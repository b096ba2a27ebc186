"""FP8 weights in blocks of 128 x 128, as DeepSeek-V3 is released (arXiv 2412.19437, section 3.3).

weight = codes (float8_e4m3fn) * weight_scale_inv of its block. There is one fp32 scale a block; blocks at the
right and lower edge may be smaller. transformers gets those wrong on the CPU; V3's kv_a_proj has one.
"""

# M x N weights, m x n blocks: m = ceil(M / 128)

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
LARGEST = 448.0  # of float8_e4m3fn
CODES = torch.float8_e4m3fn
CONFIG = {  # config.json's quantization_config
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [BLOCK, BLOCK],
}
POWERS = "ue8m0"  # DeepSeek-V3.1's scale_fmt
TILE_BLOCKS = 16  # blocks of a tile, which fits into a core's cache


@dataclass(frozen=True, slots=True)
class _Tile:
    """A part of one row of blocks: its location in the given slice, and its blocks in the whole tensor."""

    rows: slice
    columns: slice
    block_row: int
    block_columns: slice
    skipped: int  # columns of the first block that are not in the given slice

    def spread(self, blocks: Tensor) -> Tensor:
        """[n of the tile] -> [columns of the tile]: each block's value for its columns."""
        wide = blocks.repeat_interleave(BLOCK)
        return wide[self.skipped : self.skipped + self.columns.stop - self.columns.start]


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """[M, N] -> [m, n]."""
    rows, columns = shape
    return -(-rows // BLOCK), -(-columns // BLOCK)


def are_powers_of_two(config: Mapping[str, Any]) -> bool:
    """Whether a quantization_config says that its scales are powers of two."""
    return config.get("scale_fmt") == POWERS


def dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype, *, top: int = 0, left: int = 0) -> Tensor:
    """codes [M, N] float8_e4m3fn and scales [m, n] fp32 -> [M, N] of dtype, rounded once.

    top, left: offset of the codes in the whole tensor, if they are a slice; scales are of the whole tensor.
    """
    out = torch.empty(codes.shape, dtype=dtype)
    for tile in _tiles(*codes.shape, top=top, left=left):
        scale = tile.spread(scales[tile.block_row, tile.block_columns])
        out[tile.rows, tile.columns] = _decode(codes[tile.rows, tile.columns]).mul_(scale)
    return out


def quantize(
    weight: Tensor, scales: Tensor | None = None, *, powers_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """[M, N] -> codes [M, N] and scales [m, n].

    scales: of the import. A block whose weights are still exactly representable with its scale keeps it, so a
    round trip changes nothing; any other block gets its largest magnitude / 448 (1 for a block of zeros).
    powers_of_two: new scales are rounded up to 2^k, as in DeepSeek-V3.1 (scale_fmt ue8m0, only an exponent),
    and no other scale is kept.
    """
    rows, columns = weight.shape
    codes = torch.empty(rows, columns, dtype=CODES)
    found = torch.empty(scale_shape((rows, columns)), dtype=torch.float32)
    for tile in _tiles(rows, columns):
        part, place = weight[tile.rows, tile.columns], (tile.block_row, tile.block_columns)
        if scales is not None:
            old = scales[place]
            code, kept = _again(part, old, tile)
            if powers_of_two:
                kept &= _next_power(old) == old
            if kept.all():
                codes[tile.rows, tile.columns], found[place] = code, old
                continue
        exact = part.to(torch.float32, copy=True)
        scale = _next_power(_fresh_scale(exact)) if powers_of_two else _fresh_scale(exact)
        if scales is not None:
            scale = torch.where(kept, old, scale)
        # division, not multiplication by the inverse: quantising again must give the same codes
        codes[tile.rows, tile.columns] = exact.div_(tile.spread(scale)).to(CODES)
        found[place] = scale
    return codes, found


def _tiles(rows: int, columns: int, *, top: int = 0, left: int = 0) -> Iterator[_Tile]:
    for start, stop in _cuts(rows, top, BLOCK):
        for first, last in _cuts(columns, left, TILE_BLOCKS * BLOCK):
            begin, end = (left + first) // BLOCK, -(-(left + last) // BLOCK)
            yield _Tile(
                slice(start, stop),
                slice(first, last),
                (top + start) // BLOCK,
                slice(begin, end),
                left + first - begin * BLOCK,
            )


def _cuts(size: int, offset: int, step: int) -> list[tuple[int, int]]:
    """Split 0 .. size at the multiples of `step` of the whole tensor, in which 0 is at `offset`."""
    edges = [0, *range(step - offset % step, size, step), size]
    return list(pairwise(edges))


def _decode(codes: Tensor) -> Tensor:
    """Codes -> fp32, in half the time of torch's own conversion.

    The seven bits below the sign, shifted to fp16's exponent and mantissa, are the value / 256.
    """
    bits = codes.view(torch.uint8)
    if codes.numel() and int(bits.bitwise_and(0x7F).max()) == 0x7F:  # NaN has its own code
        return codes.to(torch.float32)
    half = bits.to(torch.int16).bitwise_left_shift_(8).bitwise_right_shift_(1).bitwise_and_(~0x4000)
    return half.view(torch.float16).to(torch.float32).mul_(256.0)


def _fresh_scale(part: Tensor) -> Tensor:
    """[n of the tile] largest magnitude / 448."""
    whole = part.shape[1] // BLOCK * BLOCK
    found = []
    if whole:
        blocks = part[:, :whole].unflatten(1, (-1, BLOCK))
        found.append(torch.maximum(blocks.amax((0, 2)), -blocks.amin((0, 2))))
    if whole < part.shape[1]:
        edge = part[:, whole:]
        found.append(torch.maximum(edge.amax(), -edge.amin())[None])
    largest = torch.cat(found)
    return torch.where(largest > 0, largest / LARGEST, 1.0)


def _next_power(scale: Tensor) -> Tensor:
    """The scale rounded up to a power of two."""
    mantissa, exponent = torch.frexp(scale)  # 0.5 <= mantissa < 1
    return torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).to(exponent.dtype))


def _again(part: Tensor, scale: Tensor, tile: _Tile) -> tuple[Tensor, Tensor]:
    """Codes with the given scales, and [n of the tile] whether they reproduce every weight of the block."""
    wide = tile.spread(scale)
    codes = part.to(torch.float32, copy=True).div_(wide).clamp_(-LARGEST, LARGEST).to(CODES)
    differs = _decode(codes).mul_(wide).to(part.dtype).ne(part)
    padded = torch.zeros(scale.numel() * BLOCK, dtype=torch.bool)
    padded[: part.shape[1]] = differs.amax(0)
    return codes, ~padded.view(-1, BLOCK).amax(1)
