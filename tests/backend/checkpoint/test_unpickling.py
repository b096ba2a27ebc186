"""A pickle in a checkpoint that is no index runs nothing, whoever reads it: we, torch or Megatron."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint import metadata as parts
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

from megatron_r1.backend.checkpoint import unpickling
from megatron_r1.errors import CheckpointError

unpickling.guard()


class Calls:
    """Pickled, it calls the function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def index(name: str = "__0_0.distcp", offset: Any = 0) -> parts.Metadata:
    chunk = parts.ChunkStorageMetadata(torch.Size([0]), torch.Size([2]))
    tensor = parts.TensorStorageMetadata(parts.TensorProperties(torch.float32), torch.Size([2]), [chunk])
    stored = filesystem._StorageInfo(name, offset, 8)
    return parts.Metadata({"w": tensor}, storage_data={parts.MetadataIndex("w", torch.Size([0])): stored})


def written(folder: Path, content: Any) -> Path:
    (folder / ".metadata").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return folder


def test_an_index_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert unpickling.read_index(written(tmp_path, index())) == index()


def hostile(marker: Path) -> dict[str, Any]:
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "open": Calls(open, str(marker), "w"),
        "torch.load": Calls(torch.load, str(marker)),
        "inside": parts.Metadata({"w": Calls(os.system, f"touch {marker}")}),  # type: ignore[dict-item]
        "by name": f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode(),
        "by a dotted name": b"\x80\x04\x8c\x05torch\x8c\x10serialization.os\x93.",
        "getattr": Calls(getattr, "", "upper"),
    }


@pytest.mark.parametrize("name", list(hostile(Path())))
def test_a_pickle_that_names_anything_else_is_refused_before_it_is_run(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    written(tmp_path, hostile(marker)[name])
    for read in (unpickling.read_index, lambda folder: filesystem.FileSystemReader(folder).read_metadata()):
        with pytest.raises(CheckpointError, match=r"/\.metadata: refused, .* no part of an index"):
            read(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"no pickle",
        b"\x80\x04.",
        b"(" * 999,
        b"\x80\x04N.",
        pickle.dumps([1]),
        b"\x80\x04K\x01e.",
    ],
)
def test_what_is_no_index_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"/\.metadata: refused, .*take another checkpoint"):
        unpickling.read_index(written(tmp_path, content))


OUTSIDE = [*map(index, ("../x", "/etc/passwd", "a/b")), index(offset=-1), index(offset="0")]


@pytest.mark.parametrize("wrong", OUTSIDE)
def test_an_index_that_leads_outside_is_refused(tmp_path: Path, wrong: parts.Metadata) -> None:
    with pytest.raises(CheckpointError, match=r"refused, it (leads to|gives)"):
        unpickling.read_index(written(tmp_path, wrong))


def test_a_missing_index_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\.metadata: not read: No such file"):
        unpickling.read_index(tmp_path)


class Item:
    dest_index = parts.MetadataIndex("extra")


def test_objects_among_the_tensors_are_plain_values(tmp_path: Path) -> None:
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    planner.state_dict = {}
    plain = io.BytesIO()
    torch.save([None, {"a": torch.ones(2)}, io.BytesIO(b"x")], plain)
    plain.seek(0)
    planner.load_bytes(Item, plain)  # type: ignore[arg-type]
    assert planner.state_dict["extra"][1]["a"].tolist() == [1, 1]
    bad = io.BytesIO()
    torch.save(Calls(os.system, f"touch {tmp_path / 'ran'}"), bad)
    bad.seek(0)
    with pytest.raises(CheckpointError, match="extra in the checkpoint: refused, it holds more than plain"):
        planner.load_bytes(Item, bad)  # type: ignore[arg-type]
    assert not (tmp_path / "ran").exists()
