"""Samples that no reward can judge: said at once with the reason, refused where there is nothing else.

A typo in a task or a reference that its verifier can't read makes a sample ungradable, never right and never
wrong. Where all are, nothing is learnt, and the mean reward of no samples would read as 0.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from megatron_r1.errors import DataError
from megatron_r1.types import Scored

REMEDY = "correct the task or the reference in the data, or the rewards' tasks"
PATIENCE = 20  # shards in a row, where a stage has no guards that say so

log = logging.getLogger(__name__)


def why_ungraded(scored: Scored) -> str:
    """The first reason why a sample has no reward."""
    prompt = scored.completion.prompt
    notes = [f"{name}: {score.note}" for name, score in scored.parts.items() if score.value is None]
    reason = notes[0] if notes else f"no reward judges the task {prompt.task!r}"
    return f"{reason} (question {prompt.question[:60]!r}, reference {prompt.reference[:40]!r})"


def first_reason(scored: Sequence[Scored]) -> str:
    """Of the first sample without a reward; "" where all have one."""
    return next((why_ungraded(one) for one in scored if one.reward is None), "")


@dataclass(slots=True)
class UngradedWatch:
    """Counts the steps in a row in which nothing could be graded; `state` goes into the checkpoint.

    step_word: what a step of the stage is called. remedy: what may help.
    """

    stage: str
    patience: int
    count: int = 0
    reason: str = ""  # of the last of them
    step_word: str = "step"
    remedy: str = REMEDY
    warned: bool = False

    def look(self, step: int, *, num_samples: int, num_ungraded: int, reason: str) -> None:
        """After a step; all ranks say the same. DataError after `patience` steps without a graded sample."""
        nothing = num_ungraded == num_samples > 0
        self.count = self.count + 1 if nothing else 0
        self.reason = reason if nothing else ""
        where = f"stage {self.stage}, {self.step_word} {step}"
        if self.count >= self.patience:
            raise DataError(
                f"{where}: for {self.count} {self.step_word}s no sample could be graded, so nothing was "
                f"learnt: {reason}; {self.remedy}"
            )
        if num_ungraded and not self.warned:
            self.warned = True
            some = f"{'none' if nothing else num_samples - num_ungraded} of {num_samples} samples"
            log.warning("%s: %s can be graded: %s; %s", where, some, reason, self.remedy)

    def state(self) -> dict[str, int | str]:
        return {"count": self.count, "reason": self.reason}

    def finish(self, num_steps: int) -> None:
        """At the end of a stage of so many steps. DataError if none of them had a graded sample."""
        if 0 < num_steps <= self.count:
            raise DataError(
                f"stage {self.stage}: in none of its {num_steps} {self.step_word}s could a sample be graded, "
                f"so nothing was learnt: {self.reason}; {self.remedy}"
            )


class IdleRewards:
    """Warns once of each reward that judges nothing, while others do, for `patience` steps or a whole stage.

    Its tasks match no prompt, or it can grade none; what is known before the start `check` refuses
    (check_tasks.py).
    """

    def __init__(self, stage: str, patience: int) -> None:
        self._stage, self._patience = stage, patience
        self._counts: dict[str, int] = {}
        self._warned: set[str] = set()

    def look(self, *, judged: Collection[str], idle: Collection[str], last: bool) -> None:
        """After a step: the rewards that judged something in it, and those that did not."""
        self._counts = {name: self._counts.get(name, 0) + 1 for name in idle if judged}
        for name, count in self._counts.items():
            if name not in self._warned and (count >= self._patience or last):
                self._warned.add(name)
                log.warning(
                    "stage %s: the reward %s judged nothing in the last %d steps, and %s did; see whether "
                    "its tasks match the data", self._stage, name, count, ", ".join(judged),
                )  # fmt: skip
