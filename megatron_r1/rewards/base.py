"""What every reward is: a section of the configuration that builds a scorer.

A module of this folder that defines `REWARD = ItsConfigClass` is a reward, named as the module; the
registry finds it by scanning.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Protocol

from pydantic import Field

from megatron_r1.section import Section
from megatron_r1.types import Completion, Message, Prompt, Score


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


def completion_of(
    text: str,
    *,
    reference: str = "",
    task: str = "",
    question: str = "",
    language: str = "en",
    metadata: Mapping[str, Any] | None = None,
    token_ids: Sequence[int] | None = None,
) -> Completion:
    """A finished text as a completion, for rewards and filters outside of a run.

    task: the verifier, e.g. "integer", "math" or "code". metadata: what that needs beside the reference.
    token_ids: what lengths are counted in; without them the text's bytes.
    """
    prompt = Prompt("", (Message("user", question),), reference, task, language, metadata or {})
    ids = list(text.encode() if token_ids is None else token_ids)
    return Completion(prompt, [], ids, [], text, finished=True, policy_version=0)


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
