"""Describes a checkpoint, and says whether it can be exported to Hugging Face's files."""

import os
from collections import Counter
from math import prod
from pathlib import Path

from megatron_r1.backend.checkpoint import choice, files
from megatron_r1.backend.checkpoint.reader import CheckpointReader
from megatron_r1.backend.hf.export_checkpoint import family_in, uncovered
from megatron_r1.errors import CheckpointError
from megatron_r1.files.run_directory import CHECKPOINTS
from megatron_r1.huggingface import provenance
from megatron_r1.huggingface.describe import dtype_row, family_rows, table, yaml_of


def checkpoint_at(path: Path) -> Path:
    """The checkpoint at `path`, or the newest one of a stage's directory. CheckpointError: missing or
    damaged."""
    if os.path.lexists(path / files.MANIFEST):
        return path
    found = choice.newest(path / CHECKPOINTS) or choice.newest(path)
    if found is None:
        raise CheckpointError(
            f"{path}: no checkpoint ({files.MANIFEST}), no stage, no Hugging Face model (config.json)"
        )
    return found


def yaml_at(path: Path) -> str:
    """The `model:` section of a run that starts from this checkpoint."""
    return yaml_of(family_in(files.read_manifest(checkpoint_at(path))))


def describe(path: Path) -> str:
    directory = checkpoint_at(path)
    manifest = files.read_manifest(directory)
    files.check_index(directory, manifest)  # no file is parsed before its hash is verified
    family, reader = family_in(manifest), CheckpointReader(directory)
    sizes: Counter[str] = Counter()
    for name, shape in reader.shapes.items():
        sizes[str(reader.dtypes[name])] += prod(shape) * reader.dtypes[name].itemsize
    degrees = {name: value for name, value in manifest.layout.items() if value not in (1, None, False, True)}
    kept = [
        what
        for what, there in (("optimizer", manifest.has_optimizer), ("reference", manifest.has_reference))
        if there
    ]
    source = provenance.read_origin(directory / provenance.FOLDER)
    rows = [
        ("checkpoint", str(directory)),
        *family_rows(family),
        ("types", dtype_row(sizes)),
        ("holds", ", ".join(["weights", *kept])),
        ("written by", ", ".join(f"{name} {value}" for name, value in degrees.items()) or "one rank"),
        ("precision", manifest.precision),
        ("files", f"{sum(file['size'] for file in manifest.files.values()) / 1e9:.3f} GB"),
        ("came from", "random weights" if source is None else f"Hugging Face's files in {source.dtype}"),
    ]
    problem = uncovered(reader, family) if family.hf_architecture else f"no architecture for {family.family}"
    return "\n".join([table(rows), problem or "converts as it is", "", yaml_of(family)])
