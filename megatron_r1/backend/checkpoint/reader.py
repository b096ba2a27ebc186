"""Reads single weights from a checkpoint of any layout, without a model; exports stream from it.

The optimizer, the reference and everything else that isn't a weight is skipped.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.utils import _create_file_view

from megatron_r1.backend.checkpoint.save_load import NOT_WEIGHTS
from megatron_r1.backend.checkpoint.unpickling import read_index
from megatron_r1.backend.model.weight_slices import Place, place_of
from megatron_r1.errors import CheckpointError
from megatron_r1.huggingface.safetensors_file import Buffer, fill


@dataclass(frozen=True, slots=True)
class _Stored:
    """A chunk of a weight and the location of its bytes."""

    place: Place
    file: str
    start: int
    length: int


class CheckpointReader:
    """The weights of a checkpoint by their names in backend/model/weight_slices.py.

    A tensor from `read` is valid until the third read after it. Call `check_index` before: the index read
    here is trusted.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.dtypes: dict[str, torch.dtype] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._chunks: dict[str, list[_Stored]] = defaultdict(list)
        self._buffer, self._turned = Buffer(), False
        self._fakes: dict[bytes, Tensor] = {}  # cached by pickle: all experts have the same
        self._last: tuple[_Stored, Tensor] | None = None  # q, k and v are slices of one chunk
        self._index()

    def _index(self) -> None:
        metadata = read_index(self.directory)
        assert metadata.storage_data is not None
        for index, stored in metadata.storage_data.items():
            tensor = metadata.state_dict_metadata[index.fqn]
            if not isinstance(tensor, TensorStorageMetadata) or index.fqn.startswith(NOT_WEIGHTS):
                continue
            chunk = next(c for c in tensor.chunks if c.offsets == index.offset)
            place = place_of(index.fqn, chunk.offsets, chunk.sizes)
            self._chunks[place.name].append(
                _Stored(place, stored.relative_path, stored.offset, stored.length)
            )
            self.dtypes[place.name] = tensor.properties.dtype
            axes = 1 if place.columns is None else 2
            self.shapes[place.name] = tuple(tensor.size[-axes:])

    def read(self, name: str, rows: range) -> Tensor:
        """These rows of a weight, joined from the chunks that hold them."""
        shape = self.shapes[name]
        self._turned = False
        found = [chunk for chunk in self._chunks[name] if _overlap(chunk.place.rows, rows)]
        if len(found) == 1 and found[0].place.rows == rows and _is_wide(found[0].place, shape):
            return self._load(found[0])
        out = torch.empty(len(rows), *shape[1:], dtype=self.dtypes[name])
        covered = 0
        for chunk in found:
            both, place = _overlap(chunk.place.rows, rows), chunk.place
            part = self._load(chunk)[both.start - place.rows.start : both.stop - place.rows.start]
            columns = slice(None) if place.columns is None else slice(place.columns.start, place.columns.stop)
            target = out[both.start - rows.start : both.stop - rows.start]
            (target if place.columns is None else target[:, columns]).copy_(part)
            covered += part.numel()
        if covered < out.numel():
            raise CheckpointError(f"{self.directory}: parts of {name} are missing; take another checkpoint")
        return out

    def _load(self, chunk: _Stored) -> Tensor:
        if self._last is not None and self._last[0] is chunk:
            return self._last[1]
        if not self._turned:  # once a read: its other buffers are still in use
            self._buffer.turn()
            self._turned = True
        value = self._read(chunk)
        axes = 1 if chunk.place.columns is None else 2
        self._last = chunk, value.view(value.shape[-axes:])
        return self._last[1]

    def _read(self, chunk: _Stored) -> Tensor:
        """A tensor that torch.save wrote, read directly into its memory."""
        with (self.directory / chunk.file).open("rb", buffering=0) as file:
            view: Any = _create_file_view(file, chunk.start, chunk.length)
            archive: Any = torch._C.PyTorchFileReader(view)  # its stubs lack get_record_offset
            pickled = archive.get_record("data.pkl")
            if pickled not in self._fakes:
                view.seek(0)
                self._fakes[pickled] = _without_data(view)
            fake = self._fakes[pickled]
            data = self._buffer.take(fake.untyped_storage().nbytes())
            fill(file, chunk.start + archive.get_record_offset("data/0"), data)
        return data.view(fake.dtype).as_strided(fake.shape, fake.stride(), fake.storage_offset())


def _without_data(archive: Any) -> Tensor:
    """The tensor in a file of torch.save with dtype, shape and strides only: FakeTensorMode reads no data."""
    with FakeTensorMode():
        return torch.load(archive, weights_only=True)


def _overlap(a: range, b: range) -> range:
    return range(max(a.start, b.start), max(max(a.start, b.start), min(a.stop, b.stop)))


def _is_wide(place: Place, shape: tuple[int, ...]) -> bool:
    return place.columns is None or place.columns == range(shape[1])
