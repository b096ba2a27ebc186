"""Your own reward: a point for a chain of thought that looks back ("wait", "再"), as R1-Zero's came to do.

A reward is a section of the configuration (its keys, with types and a line of documentation each) that builds
a scorer. It is called as its file: `rewards: {own_reward: {weight: 0.1}}`. See own_reward.yaml.
"""

from collections.abc import Sequence

from pydantic import Field

from megatron_r1.rewards.answers.answer import chain_of_thought
from megatron_r1.rewards.base import RewardConfig
from megatron_r1.types import Completion, Score


class LookingBack:
    def __init__(self, words: Sequence[str]) -> None:
        self.words = set(words)

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        """One score a completion, in their order."""
        return [self._score(completion) for completion in completions]

    def _score(self, completion: Completion) -> Score:
        chain = chain_of_thought(completion.text).split()
        if not chain:
            return Score(None, "no chain of thought")  # can't be judged: the sample is left out, it is no 0
        return Score(float(any(word in self.words for word in chain)))


class OwnReward(RewardConfig):
    """Whether the chain of thought looks back."""

    words: list[str] = Field(min_length=1)
    """Words that count as looking back."""

    def build(self) -> LookingBack:
        return LookingBack(self.words)


REWARD = OwnReward
