"""Reads slices of a .safetensors file, and plans files that are written as a stream.

The format is eight bytes of length, a JSON header and the data (github.com/huggingface/safetensors, README).
The safetensors library isn't used for three reasons: it maps files, so one that is truncated meanwhile kills
the process; mapped pages count as the process's memory; and here every error in a file names its tensor.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from megatron_r1.errors import CheckpointError
from megatron_r1.files.json_reader import NotJson, parse_json
from megatron_r1.files.regular_file import file_problem

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000
LARGEST_NUMBER = 1 << 62  # in a shape or an offset
FEWEST_BYTES = 4096  # slices of a row from this size on are read separately
BLOCK_BYTES = 8 << 20  # of whole rows read at a time, for narrower slices


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's location in its file, dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # from the beginning of the file
    num_bytes: int


class Buffer:
    """Three reused pieces of memory: the memory of `take` is overwritten by the next `take` of the same
    piece.

    A conversion reads thousands of tensors; new memory for each takes as much time as reading them, and the
    allocator keeps much of it. `turn` moves to the next piece: while one tensor is read, the one before is
    written, and the one before that may still be hashed.
    """

    def __init__(self) -> None:
        self._now, *self._others = (np.empty(0, dtype=np.uint8) for _ in range(3))

    def turn(self) -> None:
        self._others.append(self._now)
        self._now = self._others.pop(0)

    def take(self, num_bytes: int) -> Tensor:
        """[num_bytes] uint8, uninitialised; the storage has the same size, since torch.save writes all of
        it."""
        if len(self._now) < num_bytes:
            self._now = np.empty(num_bytes, dtype=np.uint8)
        return torch.from_numpy(self._now[:num_bytes])


class SafetensorsFile:
    """A file with a validated header; reads its tensors. Raises CheckpointError for a damaged file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors = _read_header(path)

    def read(
        self,
        name: str,
        rows: range | None = None,
        columns: range | None = None,
        *,
        buffer: Buffer | None = None,
    ) -> Tensor:
        """The tensor, or these rows (first axis) and columns (second axis) of it. buffer: for whole rows."""
        entry = self.tensors[name]
        if len(entry.shape) == 0:
            return self._read_bytes(entry.start, entry.num_bytes).view(entry.dtype).view(())
        rows = range(entry.shape[0]) if rows is None else rows
        whole = columns is None or len(entry.shape) < 2 or columns == range(entry.shape[1])
        if whole:
            size = entry.num_bytes // max(1, entry.shape[0])
            data = self._read_bytes(entry.start + rows.start * size, len(rows) * size, buffer)
            return data.view(entry.dtype).view(len(rows), *entry.shape[1:])
        assert columns is not None
        return self._read_columns(entry, rows, columns)

    def _read_columns(self, entry: Entry, rows: range, columns: range) -> Tensor:
        item = entry.dtype.itemsize
        row_bytes, width = entry.shape[1] * item, len(columns) * item
        out = torch.empty(len(rows), width, dtype=torch.uint8)
        if width >= FEWEST_BYTES:
            first = entry.start + columns.start * item
            with self.path.open("rb", buffering=0) as file:
                for i, row in enumerate(rows):
                    fill(file, first + row * row_bytes, out[i])
        else:
            step = max(1, BLOCK_BYTES // row_bytes)
            for i in range(0, len(rows), step):
                num = min(step, len(rows) - i)
                block = self._read_bytes(entry.start + (rows.start + i) * row_bytes, num * row_bytes)
                start = columns.start * item
                out[i : i + num] = block.view(num, row_bytes)[:, start : start + width]
        return out.view(entry.dtype)

    def _read_bytes(self, start: int, num_bytes: int, buffer: Buffer | None = None) -> Tensor:
        data = torch.empty(num_bytes, dtype=torch.uint8) if buffer is None else buffer.take(num_bytes)
        with self.path.open("rb", buffering=0) as file:
            fill(file, start, data)
        return data


def fill(file: BinaryIO, start: int, data: Tensor) -> None:
    """Fill the bytes of a contiguous uint8 tensor."""
    view, done = memoryview(data.numpy()), 0
    while done < len(view):
        count = os.preadv(file.fileno(), [view[done:]], start + done)
        if not count:
            raise CheckpointError(f"{file.name}: ends at byte {start + done}; it was cut while it was read")
        done += count


def _read_header(path: Path) -> dict[str, Entry]:
    problem = file_problem(path)
    if problem is not None:
        raise CheckpointError(f"{path}: {problem}; fetch the file again")
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > LONGEST_HEADER or 8 + length > size:
            raise CheckpointError(f"{path}: no safetensors file, or cut in its header; fetch it again")
        header = _parse(path, file.read(length))
    entries = {name: _entry(path, name, value, 8 + length) for name, value in header.items()}
    _check_extent(path, entries, begin=8 + length, size=size)
    return entries


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = parse_json(text)
    except NotJson as error:
        raise CheckpointError(f"{path}: its header can't be read ({error}); fetch it again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is no mapping; fetch it again")
    header.pop("__metadata__", None)
    return header


def _entry(path: Path, name: str, value: Any, base: int) -> Entry:
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: the entry of {name} is malformed; fetch it again") from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{path}: {name} is of type {dtype}; only {', '.join(DTYPES)} can be read")
    if not all(type(number) is int and 0 <= number <= LARGEST_NUMBER for number in numbers):
        raise CheckpointError(f"{path}: the shape or the place of {name} is no list of whole numbers")
    needed = prod(shape) * DTYPES[dtype].itemsize
    if end - begin != needed:
        raise CheckpointError(
            f"{path}: {name} of shape {shape} and type {dtype} needs {needed} bytes and has {end - begin}"
        )
    return Entry(DTYPES[dtype], tuple(shape), base + begin, needed)


def _check_extent(path: Path, entries: Mapping[str, Entry], *, begin: int, size: int) -> None:
    """Raises CheckpointError unless the tensors cover the data exactly, without gaps and overlaps."""
    at = begin
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].num_bytes)):
        if entry.start != at:
            raise CheckpointError(
                f"{path}: {name} begins at byte {entry.start} and not at {at}; fetch it again"
            )
        at += entry.num_bytes
    if at != size:
        raise CheckpointError(
            f"{path}: {size} bytes, its header describes {at}; the file is cut, fetch it again"
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def header_of(tensors: Sequence[Planned]) -> bytes:
    """The header of a file with these tensors, in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.num_bytes],
        }
        at += tensor.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, without a copy if it is contiguous."""
    return memoryview(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
