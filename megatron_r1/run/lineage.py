"""What a stage's result stands on besides its configuration: files, weights and earlier stages.

Each is kept in `inputs` of artifact.json, and from the first step on in begun.json, so that a finished stage
isn't taken as done, nor an interrupted one continued, over other data than it was begun with:

    {"base": "<hash>"}                                         an earlier stage, with all that decided it
    {"data/train.jsonl": {"size": 4711, "blake3": "<hash>"}}   a file that a source or the tokenizer reads
    {"hf:models/qwen": {"config.json": {...}, "model.safetensors": {"size": ..., "sample": "<hash>"}}}

Weights are too large to be hashed at every start: `sample` is the hash of 16 pieces spread over the file.

A section says which files it reads in a method `input_files`. Of a plug-in's section without one, every value
that names a file or a folder that is there counts. What a plug-in opens by a name of its own is unknown here.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from blake3 import blake3
from pydantic import BaseModel

from megatron_r1 import registry
from megatron_r1.data.sources.stage import stage_outputs
from megatron_r1.errors import DataError
from megatron_r1.files.regular_file import file_problem
from megatron_r1.files.run_directory import DATA, TOKENIZERS, TRAINED_TOKENIZER, Artifact
from megatron_r1.huggingface.config_file import CONFIG
from megatron_r1.run.config import HF, RunConfig
from megatron_r1.section import has_no_effect

INDEX = "*.safetensors.index.json"
PIECES, PIECE_BYTES = 16, 1 << 16
MOST_NAMED = 8

Inputs = Mapping[str, Any]


@runtime_checkable
class ReadsFiles(Protocol):
    """A section whose values name files."""

    def input_files(self) -> list[Path]:
        """The files that it reads, which decide the result as its values do."""
        ...


def digest_of(value: Mapping[str, Any]) -> str:
    """A hash of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def own_inputs(run: RunConfig, name: str, run_dir: Path) -> dict[str, Any]:
    """The weights and files that a stage reads, all but what earlier stages left: by name, with hashes."""
    stage, tokenizer = run.stages[name], run.for_stage(name).tokenizer
    for source in stage_outputs(stage):
        source.find_in(run_dir)
    paths = [trained_tokenizer(run, name, run_dir)] if tokenizer.train else tokenizer.input_files()
    paths += [*named_files(stage), *registry.imported_by_plug_ins(stage, run.for_stage(name).model)]
    weights = {}
    if stage.init is not None and stage.init.startswith(HF):
        weights[stage.init] = describe_weights(Path(stage.init.removeprefix(HF)))
    return {**weights, **describe_files(paths, run_dir)}


def trained_tokenizer(run: RunConfig, name: str, run_dir: Path) -> Path:
    """Where the tokenizer of a stage's model is kept, if the run trains it."""
    shared = run.for_stage(name).tokenizer == run.tokenizer
    return (run_dir if shared else run_dir / TOKENIZERS / str(run.model_name(name))) / TRAINED_TOKENIZER


def require_outputs(run_dir: Path, earlier: Mapping[str, Artifact], inputs: Inputs) -> None:
    """Raise DataError where data that an earlier stage made is not as that stage wrote it."""
    for name, done in earlier.items():
        prefix = f"{name}/{DATA}/"
        found = {
            path.removeprefix(f"{name}/"): inputs[path]["blake3"]
            for path in inputs
            if path.startswith(prefix)
        }
        differing = sorted(
            path for path in found.keys() | done.outputs.keys() if found.get(path) != done.outputs.get(path)
        )
        if found and done.outputs and differing:
            raise DataError(
                f"{run_dir / name / differing[0]}: not as stage {name} wrote it; use --from {name} to make "
                "it again, or copy the folder and name it as a source of its own: {source: jsonl, path: ...}"
            )


def named_files(section: BaseModel) -> Iterator[Path]:
    """The files that a section and those inside it read, however deep; not those of fields without effect."""
    if isinstance(section, ReadsFiles):
        yield from section.input_files()
    elif registry.is_plugged_in(section):
        yield from _discovered(section)
    for name, value in section:
        if not has_no_effect(section, name):
            yield from _named_in(value)


def _named_in(value: Any) -> Iterator[Path]:
    if isinstance(value, BaseModel):
        yield from named_files(value)
    elif isinstance(value, dict):
        yield from (path for inner in value.values() for path in _named_in(inner))
    elif isinstance(value, list | tuple):
        yield from (path for inner in value for path in _named_in(inner))


def _discovered(section: BaseModel) -> Iterator[Path]:
    """Files that a plug-in's values name: those that are there, and all in a folder or of a pattern."""
    for _, value in section:
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str | Path) and ("/" in str(text) or "." in str(text)):
                yield from _matching(str(text))


def _matching(text: str) -> list[Path]:
    if "\0" in text or "\n" in text or text.startswith(HF):
        return []
    path = Path(text)
    if path.is_dir():
        return sorted(inner for inner in path.rglob("*") if inner.is_file())
    if path.is_file():
        return [path]
    relative = any(sign in text for sign in "*?[") and not path.is_absolute()
    return sorted(inner for inner in Path().glob(text) if inner.is_file()) if relative else []


def describe_files(paths: Iterable[Path], run_dir: Path) -> dict[str, dict[str, Any]]:
    """Size and BLAKE3 by the path as it is configured; what the run itself wrote by its place in the run."""
    found = {}
    for path in paths:
        inside = path.is_relative_to(run_dir)
        name = str(path.relative_to(run_dir) if inside else path)
        found[name if "/" in name or "." in name else f"./{name}"] = describe_file(path)
    return found


def describe_file(path: Path) -> dict[str, Any]:
    """Size and BLAKE3. DataError: it can't be read."""
    problem = file_problem(path)
    if problem is not None:
        raise DataError(f"{path}: {problem}")
    now = path.stat()
    return {"size": now.st_size, "blake3": _whole(path, now.st_size, now.st_mtime_ns, now.st_ino)}


@cache
def _whole(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """Once a process, unless the file changes: stages of a chain often share their data."""
    hasher = blake3(max_threads=blake3.AUTO)
    return (hasher.update_mmap(path) if size else hasher).hexdigest()


def describe_weights(folder: Path) -> dict[str, dict[str, Any]]:
    """A folder of Hugging Face's: configuration and index whole, the weights by size and a sample."""
    whole = [path for path in (folder / CONFIG, *sorted(folder.glob(INDEX))) if path.is_file()]
    return {
        **{path.name: describe_file(path) for path in whole},
        **{path.name: _describe_sample(path) for path in sorted(folder.glob("*.safetensors"))},
    }


def _describe_sample(path: Path) -> dict[str, Any]:
    problem = file_problem(path)
    if problem is not None:
        raise DataError(f"{path}: {problem}")
    hasher, size = blake3(), path.stat().st_size
    with path.open("rb") as file:
        for piece in range(PIECES):
            file.seek(piece * max(0, size - PIECE_BYTES) // (PIECES - 1))
            hasher.update(file.read(PIECE_BYTES))
    return {"size": size, "sample": hasher.hexdigest()}


def changed(then: Inputs, now: Inputs) -> list[str]:
    """What differs, in words: stages and weights by name, files with their sizes.

    `then` may be of a version that kept no files (`is_older`): those are left out.
    """
    before, after = _flat(then), _flat(now)
    if is_older(then):
        after = {name: value for name, value in after.items() if isinstance(value, str) or name in before}
    names = [*after, *(name for name in before if name not in after)]
    return [
        _difference(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


def changed_stages(then: Inputs, now: Inputs) -> bool:
    """Whether an earlier stage differs, not files alone."""
    return any(then.get(name) != value for name, value in now.items() if isinstance(value, str))


def is_older(inputs: Inputs) -> bool:
    """Whether a version wrote them that kept no files: the tokenizer's are in every stage's since."""
    return not any(isinstance(value, Mapping) for value in inputs.values())


def in_words(differences: list[str]) -> str:
    """The first few."""
    more = len(differences) - MOST_NAMED
    return "; ".join(differences[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _flat(inputs: Inputs) -> dict[str, Any]:
    """Files of a folder by FOLDER/NAME."""
    found: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Mapping) and "size" not in value:
            found |= {f"{name}/{inner}": entry for inner, entry in value.items()}
        else:
            found[name] = value
    return found


def _difference(name: str, before: Any, after: Any) -> str:
    if isinstance(before, str) or isinstance(after, str):  # a stage
        return f"{name} changed"
    if before is None:
        return f"{name} is new ({after['size']:,} bytes)"
    if after is None:
        return f"{name} is no longer read ({before['size']:,} bytes then)"
    if before["size"] == after["size"]:
        return f"{name} changed (its content; it had and has {before['size']:,} bytes)"
    return f"{name} changed ({before['size']:,} bytes then, {after['size']:,} now)"


def is_first_of_machine() -> bool:
    """Whether this rank looks at the machine's files for the others on it."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def require_equal(found: list[Inputs | None]) -> Inputs:
    """What every machine found, by rank. DataError: a machine has other files under the same names."""
    first = found[0]
    assert first is not None, "rank 0 is the first of its machine"
    for rank, other in enumerate(found):
        if other is not None and other != first:
            raise DataError(
                f"ranks 0 and {rank} read different files: {in_words(changed(first, other))} (then: rank 0, "
                f"now: rank {rank}); give every machine the same ones"
            )
    return first
