"""Source of reasoning-gym's problems: any family by name, endless and verifiable.

The verifier (task `gym:NAME`) needs the whole entry and the family's options, so both are in the prompt's
metadata. The library takes seconds to import, so only building a source imports it.

Before use a family's scorer is tested with wrong answers (megatron_r1/gym/trial.py); docs/reasoning_gym.md
has the result for each family.
"""

import difflib
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field

from megatron_r1.data.split import Split, content_id, split_of
from megatron_r1.errors import DataError
from megatron_r1.gym.problems import Problems
from megatron_r1.gym.scoring import needs_its_answer, settled
from megatron_r1.gym.trial import answers_itself, refusal
from megatron_r1.section import Section
from megatron_r1.types import Document, Message, Prompt

BLOCK_SIZE = 4096  # some families make all items of a dataset at once, so datasets must be finite
MAX_ATTEMPTS = 256  # to find a problem on the right side of the split; 0.9 ** 256 is 2e-12


class Gym(Section):
    """Endless problems of one reasoning-gym family."""

    source: Literal["gym"] = "gym"
    weight: float = Field(default=1.0, gt=0, le=1e15)
    """Share in a mixture, relative to the other sources."""
    family: str
    """Name of the family, such as `chain_sum` or `gsm_symbolic`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The family's own settings, passed on as they are."""

    def build(self, seed: int, *, split: Split = "train") -> "GymSource":
        return GymSource(self, seed=seed, split=split)


SOURCE = Gym


class GymSource:
    """The problems of one side of the split: each index has its own MAX_ATTEMPTS candidates."""

    size = None

    def __init__(self, config: Gym, *, seed: int, split: Split) -> None:
        self._config = config
        self._seed = seed
        self._split = split
        _check_name(config.family)
        if fault := refusal(config.family, config.options):
            raise DataError(f"gym family {config.family!r} {fault}; choose another family")
        # a cache of this object, as neighbouring indices share a block
        self._block = lru_cache(maxsize=4)(self._make_block)

    def prompt(self, index: int) -> Prompt:
        for candidate in range(index * MAX_ATTEMPTS, (index + 1) * MAX_ATTEMPTS):
            entry = self._block(candidate // BLOCK_SIZE)[candidate % BLOCK_SIZE]
            problem_id = content_id(f"{self._config.family}\n{entry['question']}")
            if split_of(problem_id) != self._split:
                continue
            entry = settled(self._config.family, entry)
            if self._is_gradable(entry):
                return self._prompt(problem_id, entry)
        raise DataError(
            f"gym family {self._config.family!r} has no {self._split} problem among {MAX_ATTEMPTS} tries: "
            "its options allow too few different ones; widen them"
        )

    def document(self, index: int) -> Document:
        raise DataError(f"gym family {self._config.family!r} has questions only; it can't be a corpus")

    def _is_gradable(self, entry: dict[str, Any]) -> bool:
        family = self._config.family
        return not needs_its_answer(family) or answers_itself(family, self._config.options, entry)

    def _prompt(self, problem_id: str, entry: dict[str, Any]) -> Prompt:
        return Prompt(
            id=problem_id,
            messages=(Message("user", entry["question"]),),
            reference=str(entry["answer"]),
            task=f"gym:{self._config.family}",
            metadata={"entry": entry, "options": self._config.options},
        )

    def _make_block(self, block: int) -> Problems:
        seed = int(content_id(f"gym/{self._seed}/{block}")[:8], 16)
        return Problems(self._config.family, self._config.options, seed=seed, size=BLOCK_SIZE)


def _check_name(family: str) -> None:
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS:
        near = difflib.get_close_matches(family, DATASETS, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(DATASETS)}, none like it"
        raise DataError(f"gym family {family!r} is unknown; {hint}")
