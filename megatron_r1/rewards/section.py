"""What every reward is: a section of the configuration that builds a scorer.

A module of this folder that defines `REWARD = ItsConfigClass` is a reward, named as the module; the
registry finds it by scanning.
"""

from abc import abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Protocol

from pydantic import Field

from megatron_r1.config.section import Section
from megatron_r1.types import Completion, Score


class Reward(Protocol):
    """Judges completions. One score a completion, in order; value None where it can't be judged."""

    def score(self, completions: Sequence[Completion]) -> list[Score]: ...


ELSEWHERE = Score(None, "of another task")  # no part of the sample's reward


class OfTasks:
    """A reward that judges some tasks and leaves the others alone."""

    def __init__(self, reward: Reward, patterns: Sequence[str]) -> None:
        self.reward, self._patterns = reward, tuple(patterns)

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        mine = [any(fnmatchcase(c.prompt.task, p) for p in self._patterns) for c in completions]
        found = iter(self.reward.score([c for c, judged in zip(completions, mine, strict=True) if judged]))
        return [next(found) if judged else ELSEWHERE for judged in mine]


class RewardConfig(Section):
    """One entry under `rewards:`."""

    weight: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0
    """Factor of this reward in the weighted sum."""

    tasks: list[str] | None = None
    """The tasks of the prompts that this reward judges (patterns such as gym:*); null: all. To the reward of
    another prompt it adds nothing; a prompt that no reward judges is left out."""

    def scorer(self) -> Reward:
        """`build`, for the prompts of `tasks` only."""
        return self.build() if self.tasks is None else OfTasks(self.build(), self.tasks)

    def missing(self) -> str | None:
        """What this machine lacks for it, in words; the run may start on another."""
        return None

    @abstractmethod
    def build(self) -> Reward:
        """Make the scorer; may start nothing heavy before the first score."""
