"""Files of a stage that produces data: JSON lines, each file written in one rename and so never partial.

candidates/settings.json       the settings with which the candidate shards were made
candidates/shard_00000.jsonl   graded completions; an interrupted stage resumes after the last shard
data/shard_00000.jsonl         the selected candidates, for later stages
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
    """The files in one stage's directory; only the main rank writes."""

    stage: str
    directory: Path
    replicas: Replicas

    def begin(self, settings: Mapping[str, Any], *, resumed: bool) -> None:
        """Write the settings, or when resuming, compare them. DataError if the shards have other settings."""
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
        """Write a shard of candidates."""
        if self.replicas.is_main:
            write_lines(shard(self.directory / CANDIDATES, number), lines)

    def candidates(self, number: int) -> Iterator[dict[str, Any]]:
        """The lines of a shard."""
        return read_lines(shard(self.directory / CANDIDATES, number))

    def publish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the selected candidates, replacing an earlier selection."""
        new, lines = self.directory / f"{DATA}.new", iter(lines)
        shutil.rmtree(new, ignore_errors=True)  # left by an interrupted start
        new.mkdir()
        for number, first in enumerate(lines):
            write_lines(shard(new, number), chain([first], islice(lines, LINES_A_FILE - 1)))
        shutil.rmtree(self.directory / DATA, ignore_errors=True)
        new.rename(self.directory / DATA)

    def choose(self, publish: Callable[[], Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, float]]:
        """Call `publish` on the main rank and write the card that it returns.

        Returns the card and its shares on every rank. DataError if nothing was kept.
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
    """Metrics: the shares of the sampled completions that were kept, and dropped by each reason."""
    dropped = {f"rollout/dropped_{why}": count / card["sampled"] for why, count in card["dropped"].items()}
    return {"rollout/kept": card["kept"] / card["sampled"], **dropped}


def shard(directory: Path, number: int) -> Path:
    return directory / f"shard_{number:05d}.jsonl"


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the lines, sync them to the disk, and rename the file to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON object of each line. DataError with file and line for any other line."""
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
    """The number of shards before the first missing one."""
    count = 0
    while shard(directory, count).is_file():
        count += 1
    return count
