"""Preference rewards: a reward model's score of a response (DeepSeek-R1, section 2.3.4).

helpful reads the final summary only, so that the reasoning is free; harmless reads the whole response. The
model is that of an earlier reward_model stage and lies beside the policy on the same ranks. So, unlike the
rules, these rewards are asked on all ranks together, and `grpo` hands them their model.

A response without a summary, because its reasoning never ends, gets the lowest score of its prompt's
responses: left out, it would escape; and an empty text has whatever score the model makes of nothing. So
does one that the tokenizer can't read back.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field

from megatron_r1.data.chat_template import THINK_CLOSE, THINK_OPEN
from megatron_r1.errors import ConfigError
from megatron_r1.rewards.base import OfTasks, Reward, RewardConfig
from megatron_r1.types import Completion, Document, Score

TASK = "general"
NO_SUMMARY = "no summary: the lowest of its prompt's scores"
UNREADABLE = "unreadable: the lowest of its prompt's scores"


class TextScorer(Protocol):
    """A reward model that reads text. Collective: every rank of every replica asks at the same time."""

    def score(self, documents: Sequence[Document]) -> list[float | None]:
        """One number a document, None for what it can't read."""
        ...


def summary_of(text: str) -> str | None:
    """What follows the reasoning; None where it never ends or nothing follows."""
    _, closed, summary = text.rpartition(THINK_CLOSE)
    if closed:
        return summary.strip() or None
    return None if THINK_OPEN in text else text.strip() or None


def whole_of(text: str) -> str | None:
    """All of a response."""
    return text.strip() or None


@dataclass(frozen=True, slots=True)
class PreferenceReward:
    """scale probability: sigmoid of the score, which keeps a reward between 0 and 1."""

    model: TextScorer
    part: Callable[[str], str | None]
    scale: Literal["score", "probability"]

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        texts = [self.part(completion.text) for completion in completions]
        asked = [
            Document(completion.prompt.messages, text, completion.prompt.language)
            for completion, text in zip(completions, texts, strict=True)
            if text is not None
        ]
        found = iter(self.model.score(asked))
        values = [None if text is None else self._scaled(next(found)) for text in texts]
        notes = [NO_SUMMARY if text is None else UNREADABLE for text in texts]
        return [
            Score(_lowest(completion, completions, values), note) if value is None else Score(value)
            for completion, value, note in zip(completions, values, notes, strict=True)
        ]

    def _scaled(self, score: float | None) -> float | None:
        if score is None or self.scale == "score":
            return score
        return 1 / (1 + math.exp(-score)) if score > 0 else math.exp(score) / (1 + math.exp(score))


def _lowest(
    completion: Completion, completions: Sequence[Completion], values: Sequence[float | None]
) -> float:
    """Of the scores of the same prompt's responses; 0 where none has one."""
    theirs = zip(completions, values, strict=True)
    return min((v for c, v in theirs if v is not None and c.prompt.id == completion.prompt.id), default=0.0)


class PreferenceConfig(RewardConfig):
    """Base of the rewards that need a model."""

    model: str
    """The earlier reward_model stage."""

    tasks: list[str] | None = Field(default=[TASK])
    """The tasks of the prompts that this reward judges (patterns such as gym:*); null: all."""

    scale: Literal["score", "probability"] = "score"
    """What the model says, or its sigmoid."""

    def build(self) -> Reward:
        raise ConfigError(
            f"a preference reward (model: {self.model}) needs its model on the ranks, which only grpo "
            "provides; use a rule here, or a judge"
        )

    def with_model(self, model: TextScorer) -> Reward:
        """The scorer, for the prompts of `tasks` only."""
        reward = PreferenceReward(model, type(self).part, self.scale)
        return reward if self.tasks is None else OfTasks(reward, self.tasks)

    @staticmethod
    def part(text: str) -> str | None:
        """What of a response the model reads."""
        raise NotImplementedError
