"""Base of the rewards: the protocol of a scorer, and the YAML section that builds it.

A module of this folder that defines `REWARD = ItsConfigClass` is a reward of the module's name; the registry
finds it.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Protocol

from pydantic import Field

from megatron_r1.section import Section
from megatron_r1.types import Completion, Message, Prompt, Score


class Reward(Protocol):
    """Scores completions: one score each, in order; value None if a completion can't be graded."""

    def score(self, completions: Sequence[Completion]) -> list[Score]: ...


ELSEWHERE = Score(None, "of another task")  # not a part of the completion's reward


class OfTasks:
    """A reward restricted to the prompts of some tasks; ELSEWHERE for all others."""

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
    """A complete response as a Completion, to use rewards and filters outside a run.

    task: the verifier, such as "integer", "math" or "code". metadata: what the verifier needs beside the
    reference. token_ids: for lengths; by default the text's bytes.
    """
    prompt = Prompt("", (Message("user", question),), reference, task, language, metadata or {})
    ids = list(text.encode() if token_ids is None else token_ids)
    return Completion(prompt, [], ids, [], text, finished=True, policy_version=0)


class RewardConfig(Section):
    """Base of an entry under `rewards:`."""

    weight: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0
    """Factor of this reward in the weighted sum."""

    tasks: list[str] | None = None
    """Tasks whose prompts this reward scores (patterns such as gym:*); null: all. It adds nothing to the
    reward of other prompts. Completions that no reward scores are left out."""

    def scorer(self) -> Reward:
        """The scorer, restricted to the prompts of `tasks`."""
        return self.build() if self.tasks is None else OfTasks(self.build(), self.tasks)

    def missing(self) -> str | None:
        """What this machine lacks for the reward; None if nothing. The run may start on another machine."""
        return None

    @abstractmethod
    def build(self) -> Reward:
        """Make the scorer. It should start nothing heavy before the first score."""
