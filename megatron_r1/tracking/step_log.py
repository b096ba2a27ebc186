"""A JSON-lines file in which every line carries its step, so that a resumed run can cut it back.

A run can be killed at any byte: an unfinished last line is no error, every other bad line is.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_r1.errors import DataError
from megatron_r1.files import atomic
from megatron_r1.files.json_reader import NotJson, parse_json


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add one line a record, all of them on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records]
    # Opened anew each time: a file handle kept for days does not survive every network file system.
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records in order of writing; a missing file has none."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # killed while writing it
            yield _parse(path, number, line)


def sync(path: Path) -> None:
    """What was written is on the disk, not only in its cache, when this returns."""
    if path.exists():
        atomic.sync(path)


def truncate_after(path: Path, step: int) -> int:
    """Cut the file after the lines of `step`, so that what followed can be written again.

    Returns the step of the last line that is left, -1 where there is none.
    """
    if not path.exists():
        return -1
    kept_bytes, last = 0, -1
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or (found := _parse(path, number, line)["step"]) > step:
                break
            kept_bytes, last = kept_bytes + len(line), found
    os.truncate(path, kept_bytes)
    return last


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except NotJson as error:
        raise DataError(f"{path}:{number}: not JSON: {error}; remove the line") from None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise DataError(f"{path}:{number}: a line must be an object with a whole number 'step'; remove it")
    return record
