"""The files of a stage that makes data, as JSON lines that are whole or absent: what there is counts.

candidates/settings.json       with what the shards beside it were made
candidates/shard_00000.jsonl   an interrupted stage goes on after the last whole one
data/shard_00000.jsonl         what was chosen from all of them, for later stages
data_card.json                 counts: at least "sampled", "kept", and "dropped" by reason
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from megatron_r1.errors import DataError
from megatron_r1.files.atomic import replacing
from megatron_r1.files.json_reader import NotJson, parse_json
from megatron_r1.files.regular_file import file_problem
from megatron_r1.files.run_directory import CANDIDATES, DATA, DATA_CARD, SETTINGS
from megatron_r1.types import Replicas

LINES_A_FILE = 10_000


@dataclass(frozen=True, slots=True)
class Workshop:
    """One stage's directory; the main rank writes."""

    stage: str
    directory: Path
    replicas: Replicas

    def begin(self, settings: Mapping[str, Any], *, resumed: bool) -> None:
        """An interrupted start's shards count only if this one would have made the same. DataError if not."""
        path = self.directory / CANDIDATES / SETTINGS
        if not resumed:
            if self.replicas.is_main:
                write_lines(path, [settings])
            return
        theirs = next(read_lines(path)) if path.is_file() else None
        if theirs != settings:
            raise DataError(
                f"stage {self.stage}: {path.parent} holds shards made with other settings; restore them, "
                f"or begin anew with --from {self.stage}"
            )

    def write(self, number: int, lines: Iterable[Mapping[str, Any]]) -> None:
        """A shard of candidates."""
        if self.replicas.is_main:
            write_lines(shard(self.directory / CANDIDATES, number), lines)

    def candidates(self, number: int) -> Iterator[dict[str, Any]]:
        """The lines of a shard."""
        return read_lines(shard(self.directory / CANDIDATES, number))

    def publish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """What was chosen, in place of what an earlier choice left."""
        new, lines = self.directory / f"{DATA}.new", iter(lines)
        shutil.rmtree(new, ignore_errors=True)  # of an interrupted start
        new.mkdir()
        for number, first in enumerate(lines):
            write_lines(shard(new, number), chain([first], islice(lines, LINES_A_FILE - 1)))
        shutil.rmtree(self.directory / DATA, ignore_errors=True)
        new.rename(self.directory / DATA)

    def choose(self, publish: Callable[[], Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, float]]:
        """`publish` on the main rank, which gives the card; on all ranks the card and its shares.

        DataError where nothing was kept.
        """
        path = self.directory / DATA_CARD
        if self.replicas.is_main:
            write_lines(path, [publish()])
        self.replicas.barrier()
        card = next(read_lines(path))
        if not card["kept"]:
            reasons = ", ".join(f"{count} {why}" for why, count in card["dropped"].items())
            raise DataError(f"stage {self.stage}: none of {card['sampled']} was kept: {reasons}; see {path}")
        return card, shares(card)


def shares(card: Mapping[str, Any]) -> dict[str, float]:
    """Of all that was sampled: what was kept, and what was dropped by reason."""
    dropped = {f"rollout/dropped_{why}": count / card["sampled"] for why, count in card["dropped"].items()}
    return {"rollout/kept": card["kept"] / card["sampled"], **dropped}


def shard(directory: Path, number: int) -> Path:
    return directory / f"shard_{number:05d}.jsonl"


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """All lines under the path in one rename, when they are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects, one a line. DataError with file and line for what is none; what wrote them is the remedy."""
    problem = file_problem(path)
    if problem:
        raise DataError(f"{path}: {problem}; begin the stage that made it anew with --from")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                found = parse_json(line)
            except NotJson as error:
                raise DataError(f"{path}:{number}: not JSON ({error}); run the stage again") from None
            if not isinstance(found, dict):
                what = type(found).__name__
                raise DataError(f"{path}:{number}: a JSON object is needed, not {what}; run the stage again")
            yield found


def num_whole(directory: Path) -> int:
    """How many shards there are from the first on without a gap."""
    count = 0
    while shard(directory, count).is_file():
        count += 1
    return count
