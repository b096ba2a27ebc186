"""Every sample that a stage drew, in samples.jsonl: what was asked, answered and how it was graded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_r1.errors import DataError
from megatron_r1.files import run_directory
from megatron_r1.tracking import step_log

if TYPE_CHECKING:  # types imports torch, which reading samples should not
    from megatron_r1.types import Scored


@dataclass(frozen=True, slots=True)
class Sample:
    """One graded answer without its tokens: small enough to gather from all ranks.

    reward: None if a part was ungradable. parts: name -> {"value": number or None, "note": why}.
    length: tokens of the response. policy_version: of the weights that drew it.
    """

    step: int
    id: str
    task: str
    language: str
    question: str
    reference: str
    text: str
    reward: float | None
    parts: dict[str, dict[str, float | str | None]]
    length: int
    finished: bool
    policy_version: int

    @classmethod
    def of(cls, scored: Scored, *, step: int) -> Sample:
        completion, prompt = scored.completion, scored.completion.prompt
        return cls(
            step=step,
            id=prompt.id,
            task=prompt.task,
            language=prompt.language,
            question=prompt.question,
            reference=prompt.reference,
            text=completion.text,
            reward=scored.reward,
            parts={name: {"value": part.value, "note": part.note} for name, part in scored.parts.items()},
            length=len(completion.token_ids),
            finished=completion.finished,
            policy_version=completion.policy_version,
        )

    @property
    def verdict(self) -> str:
        """right, wrong, ungradable, or not graded: by the accuracy or the code part."""
        graded = [self.parts[name] for name in ("accuracy", "code") if name in self.parts]
        if not graded:
            return "not graded"
        value = graded[0]["value"]
        if value is None:
            return "ungradable"
        return "right" if float(value) >= 1 else "wrong"


class SamplesWriter:
    """Appends samples; only on the main rank, which is given those of all ranks."""

    def __init__(self, directory: Path, *, is_main: bool) -> None:
        self.path = directory / run_directory.SAMPLES
        self._is_main = is_main

    def write(self, samples: Sequence[Sample]) -> None:
        if self._is_main:
            step_log.append(self.path, map(asdict, samples))

    def truncate_after(self, step: int) -> None:
        """Forget what came after `step`: call it on resuming from that step's checkpoint."""
        if self._is_main:
            step_log.truncate_after(self.path, step)

    def sync(self) -> None:
        """All that was written is on the disk when this returns."""
        if self._is_main:
            step_log.sync(self.path)


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples in order of writing, one at a time: the file of a long run does not fit in memory."""
    for number, record in enumerate(step_log.read(path), start=1):
        try:
            yield Sample(**record)
        except TypeError as error:  # a key too many or too few
            words = f"{path}:{number}: not a sample of this version ({error}); remove the line"
            raise DataError(words) from None
