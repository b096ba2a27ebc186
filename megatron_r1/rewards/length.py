"""Length reward: soft punishment of overlong completions (DAPO, arXiv 2503.14476, equation 13).

0 up to max_tokens - cache_tokens, from there falling linearly to -1 at max_tokens, and -1 beyond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator

from megatron_r1.rewards.base import RewardConfig
from megatron_r1.types import Completion, Score


def overlong_penalty(num_tokens: int, *, max_tokens: int, cache_tokens: int) -> float:
    """The reward of a completion's length, between -1 and 0."""
    excess = num_tokens - (max_tokens - cache_tokens)
    return max(-1.0, min(0.0, -excess / cache_tokens))


@dataclass(frozen=True, slots=True)
class LengthReward:
    max_tokens: int
    cache_tokens: int

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        return [
            Score(
                overlong_penalty(len(c.token_ids), max_tokens=self.max_tokens, cache_tokens=self.cache_tokens)
            )
            for c in completions
        ]


class Length(RewardConfig):
    """Punish completions near the length limit."""

    max_tokens: Annotated[int, Field(gt=0)]
    """Length limit of a completion, in tokens."""

    cache_tokens: Annotated[int, Field(gt=0)]
    """Number of tokens below the limit over which the reward falls from 0 to -1."""

    @model_validator(mode="after")
    def _cache_fits(self) -> Self:
        if self.cache_tokens > self.max_tokens:
            raise ValueError(
                f"cache_tokens {self.cache_tokens} is more than max_tokens {self.max_tokens}; lower it"
            )
        return self

    def build(self) -> LengthReward:
        return LengthReward(max_tokens=self.max_tokens, cache_tokens=self.cache_tokens)


REWARD = Length
