"""Accuracy reward: 1 right, 0 wrong, None ungradable (DeepSeek-R1, section 2.2.2).

A prompt's task selects the verifier:

    integer, number   exact literals (fractions, never floats)
    choice            a letter A-J, or several
    exact             text in a normal form
    math              exact rules, then algebra in a process that can be killed (rewards/answers/mathematics)
    gym:NAME          gym/verifiers.py, or reasoning-gym's own scorer, right at score 1 only;
                      prompt.metadata has "entry" and "options"
    json:TASK         any of these, where the answer is the "answer" of a JSON object

The reference is checked first. An unreadable reference or an unknown task makes the completion ungradable,
never right or wrong. A completion without an answer is wrong.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated

from pydantic import Field

from megatron_r1.gym.scoring import needs_its_answer
from megatron_r1.rewards.answers import mathematics, numerals
from megatron_r1.rewards.answers.answer import final_answer
from megatron_r1.rewards.answers.json_answer import json_answer
from megatron_r1.rewards.base import RewardConfig
from megatron_r1.rewards.grading.pool import GradingPool
from megatron_r1.rewards.grading.pooled import Item, PooledGrader
from megatron_r1.types import Completion, Prompt, Score

Reader = Callable[[str], Hashable | None]

# A reader turns text into a value to compare with ==, or None if it can't be read.
READERS: dict[str, Reader] = {
    "integer": numerals.parse_integer,
    "number": numerals.parse_number,
    "choice": numerals.parse_choice,
    "exact": numerals.normal_text,
}
GYM_PREFIX = "gym:"
JSON_PREFIX = "json:"


class AccuracyReward:
    def __init__(self, *, pool: GradingPool, max_chars: int) -> None:
        self.pool = pool
        self._grader = PooledGrader(pool)
        self._max_chars = max_chars

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        return self._decided([self._grade(completion) for completion in completions])

    def answer_of(self, completion: Completion) -> str | None:
        """The answer of a completion, which is what is graded; None if there is none."""
        is_json = completion.prompt.task.startswith(JSON_PREFIX)
        answer = json_answer(completion.text) if is_json else final_answer(completion.text)
        return None if answer is None or len(answer) > self._max_chars else answer

    def same(self, pairs: Sequence[tuple[str, str, str]]) -> list[bool]:
        """Whether two answers to a prompt of the task are equal, for each (task, one, other)."""
        return [score.value == 1.0 for score in self._decided([_grade_pair(*pair) for pair in pairs])]

    def _decided(self, outcomes: Sequence[Score | Item]) -> list[Score]:
        pooled = iter(self._grader.grade([item for item in outcomes if isinstance(item, Item)]))
        return [next(pooled) if isinstance(item, Item) else item for item in outcomes]

    def _grade(self, completion: Completion) -> Score | Item:
        prompt, answer = completion.prompt, self.answer_of(completion)
        if prompt.task.startswith(JSON_PREFIX):
            prompt = replace(prompt, task=prompt.task.removeprefix(JSON_PREFIX))
        if prompt.task in READERS:
            return _grade_by_reader(prompt, answer)
        if prompt.task == "math":
            return mathematics.grade_mathematics(prompt.reference, answer)
        if prompt.task.startswith(GYM_PREFIX):
            return _grade_gym(prompt, answer)
        known = ", ".join([*READERS, "math", f"{GYM_PREFIX}NAME"])
        return Score(None, f"no verifier for the task {prompt.task!r} (there are: {known})")


def _grade_by_reader(prompt: Prompt, answer: str | None) -> Score:
    expected = _read_reference(prompt.task, prompt.reference)
    if expected is None:
        return Score(None, f"reference {prompt.reference[:80]!r} can't be read as {prompt.task}")
    if answer is None:
        return Score(0.0, "no answer")
    return Score(float(READERS[prompt.task](answer) == expected))


def _grade_pair(task: str, one: str, other: str) -> Score | Item:
    """Equality of two answers: by text, then by the task's verifier, except gym's, which need an entry."""
    task = task.removeprefix(JSON_PREFIX)
    if numerals.normal_text(one) == numerals.normal_text(other):
        return Score(1.0)
    if task == "math":
        return mathematics.grade_mathematics(one, other)
    values = [READERS[task](text) for text in (one, other)] if task in READERS else [None, None]
    return Score(float(values[0] is not None and values[0] == values[1]))


@lru_cache(maxsize=65_536)
def _read_reference(task: str, reference: str) -> Hashable | None:
    return READERS[task](reference)


def _grade_gym(prompt: Prompt, answer: str | None) -> Score | Item:
    if "entry" not in prompt.metadata:
        return Score(None, f'{prompt.task}: prompt.metadata has no "entry" to score against')
    family = prompt.task.removeprefix(GYM_PREFIX)
    about = (family, prompt.metadata.get("options", {}), prompt.metadata["entry"])
    return Item(
        check=("gym", (*about, prompt.reference)) if needs_its_answer(family) else None,
        answer=Score(0.0, "no answer") if answer is None else ("gym", (*about, answer)),
    )


class Accuracy(RewardConfig):
    """Whether the final answer is right, by the verifier of the prompt's task."""

    timeout_s: Annotated[float, Field(gt=0, le=600)] = 3.0
    """CPU seconds for grading one answer (math and gym); an answer that takes longer is wrong."""

    memory_mib: Annotated[int, Field(ge=512)] = 2048
    """Address space of one grading process."""

    num_workers: Annotated[int, Field(ge=1)] = 2
    """Grading processes per rank, started on first use."""

    max_chars: Annotated[int, Field(gt=0)] = 2000
    """A longer final answer counts as no answer."""

    def build(self) -> AccuracyReward:
        pool = GradingPool(
            num_workers=self.num_workers, cpu_s=self.timeout_s, memory_bytes=self.memory_mib << 20
        )
        return AccuracyReward(pool=pool, max_chars=self.max_chars)


REWARD = Accuracy
