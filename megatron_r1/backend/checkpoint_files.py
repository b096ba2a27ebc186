"""What a checkpoint is on disk: complete or absent, and every byte accounted for.

    step_00000020/            the directory appears under this name in one rename, when all of it is on disk
      __0_0.distcp ...        tensors, a file a rank (megatron.core.dist_checkpointing, torch_dist format)
      .metadata metadata.json that format's own index
      state.json              the stage's state and what the policy counts
      manifest.json           written last: format, model, layout, and size and BLAKE3 of every other file

Plain files here, one process; checkpoint.py lets the ranks work together.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from blake3 import blake3

from megatron_r1.errors import CheckpointError

FORMAT = 2
MANIFEST = "manifest.json"
STATE = "state.json"
NUMBERED = "step_"
TENSORS = ".distcp"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in the directory. model, layout: the sections of the configuration, as plain values."""

    model: dict[str, Any]
    layout: dict[str, Any]
    precision: str
    has_optimizer: bool
    has_reference: bool
    files: dict[str, dict[str, Any]]  # name -> {"size", "blake3"}
    format: int = FORMAT

    def text(self) -> str:
        """JSON with a digest of its own, so that a flipped bit shows here too."""
        content = asdict(self)
        return json.dumps({**content, "digest": _digest(content)}, indent=1)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def partial_of(directory: Path) -> Path:
    """Where a checkpoint grows until it is complete."""
    return directory.with_name(directory.name + ".tmp")


def start(directory: Path, state: str) -> None:
    """An empty partial directory with the state in it; what an interrupted save left is removed."""
    partial = partial_of(directory)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    write_durably(partial / STATE, state)


def finish(directory: Path, manifest: Manifest) -> None:
    """Write the manifest and give the directory its name. An older checkpoint of that name is replaced."""
    partial = partial_of(directory)
    write_durably(partial / MANIFEST, manifest.text())
    _sync_directory(partial)
    replaced = directory.with_name(directory.name + ".old")
    if directory.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        directory.rename(replaced)
    partial.rename(directory)
    _sync_directory(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def write_durably(path: Path, text: str) -> None:
    """The text is on the disk, not only in its cache, when this returns."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_names(directory: Path) -> list[str]:
    """Every file but the manifest, sorted; those of a folder as FOLDER/NAME."""
    paths = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != MANIFEST)


def describe(path: Path) -> dict[str, Any]:
    """Size and BLAKE3 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: cast(Any, blake3())).hexdigest()  # its stubs are narrow
    return {"size": path.stat().st_size, "blake3": digest}


def read_manifest(directory: Path) -> Manifest:
    """The manifest. Raises CheckpointError where there is none, or one that can't be relied on."""
    path = directory / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{directory}: no complete checkpoint, {MANIFEST} is missing; take another one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
    except (ValueError, KeyError, AttributeError):
        raise CheckpointError(
            f"{path}: damaged, not the JSON that was written; take another checkpoint"
        ) from None
    if _digest(content) != digest:
        raise CheckpointError(f"{path}: damaged, its digest does not match; take another checkpoint")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {content['format']}, this version reads {FORMAT}; "
            "use the version that wrote it"
        )
    return Manifest(**content)


def tensors_digest(directory: Path) -> str:
    """SHA-256 over the digests of the tensors' files: the same weights in the same layout give the same."""
    files = read_manifest(directory).files
    return _digest({name: file["blake3"] for name, file in files.items() if name.endswith(TENSORS)})


def check_file(directory: Path, name: str, expected: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the file is there, byte for byte as it was written."""
    check_size(directory, name, expected)
    if describe(directory / name)["blake3"] != expected["blake3"]:
        raise CheckpointError(
            f"{directory / name}: damaged, its BLAKE3 hash does not match; take another checkpoint"
        )


def check_size(directory: Path, name: str, expected: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the file is there in its size; takes no time."""
    path = directory / name
    if not path.is_file():
        raise CheckpointError(f"{path}: missing from the checkpoint; take another one")
    size = path.stat().st_size
    if size != expected["size"]:
        raise CheckpointError(
            f"{path}: {size} bytes, {expected['size']} were written; the file is cut, take another checkpoint"
        )


def numbered(root: Path, step: int) -> Path:
    """The directory of the checkpoint that a run writes after `step`."""
    return root / f"{NUMBERED}{step:08d}"


def complete(root: Path) -> list[Path]:
    """The complete checkpoints of a run, the oldest first."""
    found = root.glob(f"{NUMBERED}[0-9]*") if root.is_dir() else ()
    return sorted((path for path in found if _is_complete(path)), key=_step_of)


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    found = complete(root)
    return found[-1] if found else None


def prune(root: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` complete checkpoints. One process calls it."""
    assert keep >= 1, "a run needs a checkpoint to go on from"
    for directory in complete(root)[:-keep]:
        # without its manifest it counts as incomplete, should the removal be interrupted
        (directory / MANIFEST).unlink()
        shutil.rmtree(directory)


def _step_of(directory: Path) -> int:
    return int(directory.name.removeprefix(NUMBERED))


def _is_complete(directory: Path) -> bool:
    """All files are there in their sizes; the bytes are checked when they are read."""
    if not directory.name.removeprefix(NUMBERED).isdigit():  # a partial or a replaced one
        return False
    try:
        manifest = read_manifest(directory)
    except CheckpointError:
        return False
    return all(
        (directory / name).is_file() and (directory / name).stat().st_size == file["size"]
        for name, file in manifest.files.items()
    )
