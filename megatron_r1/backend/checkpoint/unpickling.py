"""Reads a checkpoint's pickles with an allow-list: a file that names anything else is refused, not executed.

The torch_dist format stores its index, `.metadata`, as a pickle, and everything but tensors as pickles of
torch.save. torch 2.13 reads both without restriction (checkpoint/filesystem.py:930, default_planner.py:387),
and megatron-core reads through torch. `guard` replaces both functions in the whole process; tensors are read
with weights_only=True by torch itself.
"""

import io
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from megatron_r1.errors import CheckpointError

INDEX = ".metadata"
_METADATA = "torch.distributed.checkpoint.metadata"
ALLOWED = {
    *(
        (_METADATA, name)
        for name in (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),  # returns torch.strided and other layouts by name
    ("torch", "Size"),
    # the path that the index was written under; another system's Path class can't be created here
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("collections", "OrderedDict"),
    *(("torch", str(dtype).removeprefix("torch.")) for dtype in vars(torch).values()
      if isinstance(dtype, torch.dtype)),
}  # fmt: skip
# exceptions that a damaged or hostile pickle raises
FAILURES = (
    ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, RecursionError,
    TypeError, ValueError, pickle.UnpicklingError,
)  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an index")
        return super().find_class(module, name)


def guard() -> None:
    """Make torch and Megatron read checkpoints with the allow-list in this process."""
    filesystem.FileSystemReader.read_metadata = _read_metadata
    DefaultLoadPlanner.load_bytes = _load_bytes


def read_index(directory: Path) -> Metadata:
    """The index of a checkpoint. CheckpointError: missing, malformed, or naming files outside the
    directory."""
    path = directory / INDEX
    try:
        with path.open("rb") as file:
            index = _restricted(file)
    except OSError as error:
        raise CheckpointError(f"{path}: not read: {error.strerror}; take another checkpoint") from None
    except FAILURES as error:
        raise CheckpointError(
            f"{path}: refused, it is not the index of a checkpoint: {error}; take another checkpoint"
        ) from None
    problem = _problem(index, directory)
    if problem is not None:
        raise CheckpointError(f"{path}: refused, {problem}; take another checkpoint")
    return index


def _restricted(file: BinaryIO) -> Any:
    return _Unpickler(file).load()


def _problem(index: Any, directory: Path) -> str | None:
    """Why this isn't a valid index of the directory's files; None: it is."""
    if not isinstance(index, Metadata) or not isinstance(getattr(index, "storage_data", None), dict):
        return f"it holds a {type(index).__name__}, not an index"
    for stored in index.storage_data.values():
        name = getattr(stored, "relative_path", None)
        if not isinstance(name, str) or Path(name).name != name:
            return f"it leads to {name!r}, which is no file of this folder"
        if not all(isinstance(n, int) and n >= 0 for n in (stored.offset, stored.length)):
            return f"it gives {stored.offset!r} and {stored.length!r} as a place in {name}"
    return None


def _read_metadata(self: filesystem.FileSystemReader, *_: Any, **__: Any) -> Metadata:
    index = read_index(Path(self.path))
    if index.storage_meta is None:
        index.storage_meta = StorageMeta()
    index.storage_meta.load_id = self.load_id
    return index


def _load_bytes(self: DefaultLoadPlanner, read_item: ReadItem, value: io.BytesIO) -> None:
    """DefaultLoadPlanner.load_bytes (default_planner.py:382) with weights_only."""
    name = read_item.dest_index.fqn
    try:
        with torch.serialization.safe_globals([io.BytesIO]):
            loaded = torch.load(value, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{name} in the checkpoint: refused, it holds more than plain values: {reason}"
        ) from None
    if self.flatten_state_dict:
        set_element(self.original_state_dict, self.mappings[name], loaded)
    else:
        self.state_dict[name] = loaded
