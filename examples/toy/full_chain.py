"""Accuracy of the responses that work through every operation: whether a base can count, or guesses.

A policy that can't work out a chain collapses to guesses under RL, so pretraining goes on until this is high
enough (`until`). A response that takes a shorter way is ungradable here, as is a prompt of another source.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_r1.rewards.accuracy import Accuracy
from megatron_r1.rewards.base import Reward, RewardConfig
from megatron_r1.types import Completion, Score

from .arithmetic import OPERATORS, is_full_chain


@dataclass(frozen=True, slots=True)
class FullChainReward:
    accuracy: Reward

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        graded = self.accuracy.score(completions)
        return [
            score if _works_through(completion) else Score(None, "no full chain")
            for completion, score in zip(completions, graded, strict=True)
        ]


def _works_through(completion: Completion) -> bool:
    return OPERATORS in completion.prompt.metadata and is_full_chain(completion.prompt, completion.text)


class FullChain(RewardConfig):
    """1 for a right answer and 0 for a wrong one, of the responses with a step for every operator."""

    def build(self) -> FullChainReward:
        return FullChainReward(Accuracy().build())


REWARD = FullChain
