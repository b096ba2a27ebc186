"""Files of JSON lines that are whole or absent, so that an interrupted stage knows what it has."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_r1.errors import DataError


def shard(directory: Path, number: int) -> Path:
    return directory / f"shard_{number:05d}.jsonl"


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """All lines under the path in one rename, when they are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.new")
    with partial.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON ({error}); run the stage again") from error


def num_whole(directory: Path) -> int:
    """How many shards there are from the first on without a gap."""
    count = 0
    while shard(directory, count).is_file():
        count += 1
    return count
