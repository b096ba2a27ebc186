"""begun.json: with what an unfinished stage was begun, and how far its checkpoints came.

The stage's directory holds it from before the first step. An interrupted stage goes on only over the same
inputs, and never begins anew where there were checkpoints.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megatron_r1.backend.checkpoint.files import write_durably
from megatron_r1.errors import DataError
from megatron_r1.files.json_reader import read_json_object

NAME = "begun.json"


@dataclass(frozen=True, slots=True)
class Begun:
    """config, inputs: as the artifact has them. saved: the step of the newest checkpoint that was written."""

    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    saved: int | None = None

    def write(self, directory: Path) -> None:
        """Whole or not at all. One process calls it."""
        directory.mkdir(parents=True, exist_ok=True)
        new = directory / f"{NAME}.new"
        write_durably(new, json.dumps(asdict(self), indent=1))
        new.rename(directory / NAME)


def read_begun(directory: Path) -> Begun | None:
    """None: the stage has not begun, or an older version began it. DataError: the file is damaged."""
    path = directory / NAME
    if not path.exists():
        return None
    remedy = "restore it, or remove it to go on without a look at what the stage was begun with"
    content = read_json_object(path, error=DataError, remedy=remedy)
    saved = content.get("saved")
    plain = isinstance(content.get("config"), dict) and isinstance(content.get("inputs"), dict)
    if not plain or content.keys() != {"config", "inputs", "saved"} or not isinstance(saved, int | None):
        raise DataError(f"{path}: not what a stage writes; {remedy}")
    return Begun(**content)


def note_saved(directory: Path, step: int) -> None:
    """A checkpoint after `step` is complete. One process calls it."""
    begun = read_begun(directory)
    if begun is not None and begun.saved != step:
        replace(begun, saved=step).write(directory)
