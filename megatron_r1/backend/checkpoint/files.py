"""The files of a checkpoint on disk: complete or absent, each with its size and hash.

    step_00000020/            renamed to this once all files are on disk
      __0_0.distcp ...        tensors, a file a rank (megatron.core.dist_checkpointing, torch_dist format)
      .metadata metadata.json that format's own index
      state.json              the stage's state and the policy's counters
      manifest.json           written last: format, model, layout, and size and BLAKE3 of every other file

This module is for one process; save_load.py is collective.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from blake3 import blake3

from megatron_r1.errors import CheckpointError
from megatron_r1.files.atomic import sync, write_durably
from megatron_r1.files.json_reader import read_json_object
from megatron_r1.files.regular_file import file_problem

FORMAT = 2
MANIFEST = "manifest.json"
STATE = "state.json"
NUMBERED = "step_"
TENSORS = ".distcp"
REMEDY = "take another checkpoint"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json. model, layout: sections of the configuration, as plain values."""

    model: dict[str, Any]
    layout: dict[str, Any]
    precision: str
    has_optimizer: bool
    has_reference: bool
    files: dict[str, dict[str, Any]]  # name -> {"size", "blake3"}
    format: int = FORMAT

    def text(self) -> str:
        """JSON with its own digest, so that a flipped bit in it is noticed."""
        content = asdict(self)
        return json.dumps({**content, "digest": _digest(content)}, indent=1)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def partial_of(directory: Path) -> Path:
    """The directory in which a checkpoint is written until it is complete."""
    return directory.with_name(directory.name + ".tmp")


def start(directory: Path, state: str) -> None:
    """Create the partial directory with the state in it, after removing one that an interrupted save left."""
    partial = partial_of(directory)
    remove(partial)
    partial.mkdir(parents=True)
    write_durably(partial / STATE, state)


def finish(directory: Path, manifest: Manifest) -> None:
    """Write the manifest and rename the directory; it replaces an older checkpoint of that name."""
    partial = partial_of(directory)
    write_durably(partial / MANIFEST, manifest.text())
    sync(partial)
    replaced = directory.with_name(directory.name + ".old")
    if os.path.lexists(directory):
        remove(replaced)
        directory.rename(replaced)
    partial.rename(directory)
    sync(directory.parent)
    remove(replaced)


def remove(path: Path) -> None:
    """Remove a checkpoint, or anything else of that name; of a link only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        # without its manifest it counts as incomplete, should the removal be interrupted
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)


def file_names(directory: Path) -> list[str]:
    """All files but the manifest, sorted; files of a folder as FOLDER/NAME. A link counts as a file."""
    found = [
        Path(folder, name).relative_to(directory).as_posix()
        for folder, folders, names in directory.walk()
        for name in [*names, *(name for name in folders if Path(folder, name).is_symlink())]
    ]
    return sorted(name for name in found if name != MANIFEST)


def describe(path: Path) -> dict[str, Any]:
    """Size and BLAKE3 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: cast(Any, blake3())).hexdigest()  # its stubs are narrow
    return {"size": path.stat().st_size, "blake3": digest}


def read_manifest(directory: Path) -> Manifest:
    """The manifest. Raises CheckpointError where it is missing, damaged, malformed or of another format."""
    path = directory / MANIFEST
    if not os.path.lexists(path):
        raise CheckpointError(f"{directory}: no complete checkpoint, {MANIFEST} is missing; {REMEDY}")
    content = read_json_object(path, error=CheckpointError, remedy=REMEDY)
    digest = content.pop("digest", None)
    if _digest(content) != digest:
        raise CheckpointError(f"{path}: damaged, its digest does not match; {REMEDY}")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {content.get('format')}, this version reads {FORMAT}; "
            "use the version that wrote it"
        )
    problem = _manifest_problem(content)
    if problem is not None:
        raise CheckpointError(f"{path}: refused, {problem}; {REMEDY}")
    return Manifest(**content)


def _manifest_problem(content: Mapping[str, Any]) -> str | None:
    """The first part of the manifest that this version wouldn't write; None: there is none."""
    kinds = {"model": dict, "layout": dict, "precision": str, "has_optimizer": bool, "has_reference": bool,
             "files": dict, "format": int}  # fmt: skip
    if content.keys() != kinds.keys():
        return f"its keys are {', '.join(sorted(content))}, not {', '.join(sorted(kinds))}"
    wrong = [name for name, kind in kinds.items() if not isinstance(content[name], kind)]
    if wrong:
        return f"{wrong[0]} is {content[wrong[0]]!r:.80}, not a {kinds[wrong[0]].__name__}"
    if STATE not in content["files"]:
        return f"its list of files lacks {STATE}" if content["files"] else "it names no file at all"
    return next(filter(None, (_entry_problem(*entry) for entry in content["files"].items())), None)


def _entry_problem(name: str, entry: Any) -> str | None:
    parts = PurePosixPath(name).parts
    if name in ("", MANIFEST) or ".." in parts or parts[0] == "/" or "/".join(parts) != name or "\0" in name:
        return f"it names {name!r:.200}, which is no file of this folder"
    if not isinstance(entry, dict) or entry.keys() != {"size", "blake3"}:
        return f"{name}: a size and a BLAKE3 hash are needed, not {entry!r:.80}"
    size, digest = entry["size"], entry["blake3"]
    if type(size) is not int or size < 0:
        return f"{name}: its size is {size!r:.80}"
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        return f"{name}: its BLAKE3 hash is {digest!r:.80}"
    return None


def read_state(directory: Path) -> dict[str, dict[str, Any]]:
    """state.json: `policy`, the policy's counters, and `stage`, the stage's own state."""
    path = directory / STATE
    content = read_json_object(path, error=CheckpointError, remedy=REMEDY)
    counters = content.get("policy")
    if not isinstance(counters, dict) or not isinstance(content.get("stage"), dict):
        raise CheckpointError(f"{path}: refused, it lacks `policy` or `stage`; {REMEDY}")
    if not all(type(counters.get(name)) is int for name in ("version", "optimizer_step")):
        raise CheckpointError(f"{path}: refused, its counts are {counters!r:.80}; {REMEDY}")
    return content


def check_listed(directory: Path, manifest: Manifest) -> None:
    """Raises CheckpointError where there is a file that the manifest doesn't list: it has no hash."""
    unlisted = [name for name in file_names(directory) if name not in manifest.files]
    if unlisted:
        raise CheckpointError(
            f"{directory / unlisted[0]}: refused, {MANIFEST} does not name this file"
            f"{f' and {len(unlisted) - 1} more' if unlisted[1:] else ''}; remove it, or {REMEDY}"
        )


def check_index(directory: Path, manifest: Manifest) -> None:
    """Raises CheckpointError unless exactly the listed files exist in their sizes, and all but the tensors
    match their hashes. The tensors' hashes take time."""
    check_listed(directory, manifest)
    for name, file in manifest.files.items():
        (check_size if name.endswith(TENSORS) else check_file)(directory, name, file)


def tensors_digest(directory: Path) -> str:
    """SHA-256 over the digests of the tensors' files; equal for equal weights in the same layout."""
    files = read_manifest(directory).files
    return _digest({name: file["blake3"] for name, file in files.items() if name.endswith(TENSORS)})


def check_file(directory: Path, name: str, expected: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the file exists and matches its hash."""
    check_size(directory, name, expected)
    if describe(directory / name)["blake3"] != expected["blake3"]:
        raise CheckpointError(f"{directory / name}: damaged, its BLAKE3 hash does not match; {REMEDY}")


def check_size(directory: Path, name: str, expected: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the file exists in its size; fast."""
    path = directory / name
    problem = file_problem(path)
    if problem is not None:
        raise CheckpointError(f"{path}: {problem}, though the checkpoint had it; {REMEDY}")
    size = path.stat().st_size
    if size != expected["size"]:
        raise CheckpointError(f"{path}: {size} bytes, {expected['size']} were written; {REMEDY}")


def numbered(root: Path, step: int) -> Path:
    """The directory of the checkpoint that a run writes after `step`."""
    return root / f"{NUMBERED}{step:08d}"


def complete(root: Path) -> list[Path]:
    """The complete checkpoints of a run, the oldest first."""
    return [path for path in numbered_ones(root) if problem_of(path) is None]


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    found = complete(root)
    return found[-1] if found else None


def prune(root: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` complete checkpoints, and what interrupted saves and removals left
    before them. One process calls it."""
    assert keep >= 1, "a run needs a checkpoint to resume from"
    kept = complete(root)[-keep:]
    if not kept:
        return
    for directory in numbered_ones(root):
        if step_of(directory) < step_of(kept[0]):
            remove(directory)
    for leftover in (*leftovers(root, ".tmp"), *leftovers(root, ".old")):
        if step_of(leftover.with_suffix("")) <= step_of(kept[-1]):
            remove(leftover)


def leftovers(root: Path, suffix: str) -> list[Path]:
    """Directories that an interrupted save left: .tmp, the new checkpoint; .old, the one it replaces."""
    found = root.glob(f"{NUMBERED}[0-9]*{suffix}") if root.is_dir() else ()
    return sorted(path for path in found if path.stem.removeprefix(NUMBERED).isdecimal())


def numbered_ones(root: Path) -> list[Path]:
    """Everything named like a run's checkpoint, complete or not, the oldest first."""
    found = root.glob(f"{NUMBERED}[0-9]*") if root.is_dir() else ()
    return sorted((path for path in found if path.name.removeprefix(NUMBERED).isdecimal()), key=step_of)


def step_of(directory: Path) -> int:
    """The step that a checkpoint was written after."""
    return int(directory.name.removeprefix(NUMBERED))


def problem_of(directory: Path) -> str | None:
    """Why this is no complete checkpoint; None: exactly the listed files exist in their sizes. Hashes are
    checked when the files are read."""
    try:
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: {_no_folder(directory)}; {REMEDY}")
        manifest = read_manifest(directory)
        check_listed(directory, manifest)
        for name, file in manifest.files.items():
            check_size(directory, name, file)
    except CheckpointError as error:
        return str(error)
    return None


def _no_folder(path: Path) -> str:
    return file_problem(path) or "a file, not the folder of a checkpoint"
