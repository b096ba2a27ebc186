"""artifact.json, which a finished stage leaves last of all: reading, writing, and what differs from it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

from megatron_r1.backend.checkpoint.files import write_durably
from megatron_r1.config.spelling import with_new_names
from megatron_r1.errors import DataError
from megatron_r1.files.json_reader import read_json_object
from megatron_r1.section import only_deciding
from megatron_r1.stages.base import StageConfig
from megatron_r1.types import Artifact

ARTIFACT = "artifact.json"
OPTIONAL = {"outputs"}  # older versions wrote none
REMEDY = "remove it: the stage then goes on from its last checkpoint and writes it again"


def read_artifact(directory: Path) -> Artifact | None:
    """A finished stage's artifact; None if it is not finished. DataError: it is damaged."""
    path = directory / ARTIFACT
    if not os.path.lexists(path):
        return None
    content = read_json_object(path, error=DataError, remedy=REMEDY)
    problem = _problem(content)
    if problem is not None:
        raise DataError(f"{path}: not what a finished stage writes: {problem}; {REMEDY}")
    return Artifact(**content)


def _problem(content: Mapping[str, Any]) -> str | None:
    known = {field.name for field in fields(Artifact)}
    missing, unknown = known - OPTIONAL - content.keys(), content.keys() - known
    if missing or unknown:
        return f"{', '.join(sorted(missing | unknown))} {'is missing' if missing else 'is not known'}"
    kinds = {"stage": str, "kind": str, "config_hash": str, "config": dict, "inputs": dict, "metrics": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(content[name], kind)]
    wrong += [] if isinstance(content.get("outputs", {}), dict) else ["outputs"]
    if wrong:
        return f"{wrong[0]} is {content[wrong[0]]!r:.80}"
    checkpoint = content["checkpoint"]
    if checkpoint is not None and not _is_inside(checkpoint):
        return f"checkpoint is {checkpoint!r:.200}, which is no folder of the stage"
    return None


def _is_inside(checkpoint: Any) -> bool:
    if not isinstance(checkpoint, str) or not checkpoint:
        return False
    path = PurePosixPath(checkpoint)
    return not path.is_absolute() and ".." not in path.parts


def write_artifact(directory: Path, artifact: Artifact) -> None:
    """Last of all, and whole or not at all."""
    new = directory / f"{ARTIFACT}.new"
    write_durably(new, json.dumps(asdict(artifact), indent=2))
    new.rename(directory / ARTIFACT)


def digest_of(value: Mapping[str, Any]) -> str:
    """A hash of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def config_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, name: str, section: StageConfig
) -> list[str]:
    """What decides a stage's result and differs, a key each, as it is written in the YAML.

    before: of any version: keys are given their names of now, and those without effect count for nothing.
    """
    kept = with_new_names(before)
    if "stage" in kept:
        kept["stage"] = only_deciding(section, with_new_names(kept["stage"]))
    return [_change(key, *pair, stage=name) for key, pair in _changed(kept, now).items()]


def _changed(before: Any, now: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, with both values."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return {} if before == now else {path: (before, now)}
    found = {}
    for key in [*before, *(key for key in now if key not in before)]:
        found |= _changed(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    return found


def _change(key: str, before: Any, now: Any, *, stage: str) -> str:
    """One difference in words; the stage's own keys as they are written in the YAML."""
    if key.startswith("stage."):
        key = f"stages.{stage}.{key.removeprefix('stage.')}"
    return f"{key}: {json.dumps(before)} then, {json.dumps(now)} now"
