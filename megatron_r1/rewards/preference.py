"""Preference rewards: a reward model's score of a response (DeepSeek-R1, section 2.3.4).

`helpful` scores the final summary only, which leaves the reasoning free; `harmless` scores the whole
response. The model is an earlier reward_model stage's and runs on the policy's ranks. So, unlike rules, these
rewards are collective over all ranks, and `grpo` provides their model.

A response without a summary, because its reasoning never ends, gets the lowest score in its group, and so
does one that the tokenizer can't encode. Leaving it out would let it escape the punishment, and the model's
score of an empty text is arbitrary.
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
    """A reward model on text. Collective: every rank must call it at the same time."""

    def score(self, documents: Sequence[Document]) -> list[float | None]:
        """One score for each document; None if it can't be encoded."""
        ...


def summary_of(text: str) -> str | None:
    """The text after the reasoning; None if the reasoning never ends or nothing follows it."""
    _, closed, summary = text.rpartition(THINK_CLOSE)
    if closed:
        return summary.strip() or None
    return None if THINK_OPEN in text else text.strip() or None


def whole_of(text: str) -> str | None:
    """The whole response; None if it is empty."""
    return text.strip() or None


@dataclass(frozen=True, slots=True)
class PreferenceReward:
    """Scores `part` of each response by the model. scale: probability is the sigmoid of the score."""

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
    """The lowest score among the same prompt's responses; 0 if none has one."""
    theirs = zip(completions, values, strict=True)
    return min((v for c, v in theirs if v is not None and c.prompt.id == completion.prompt.id), default=0.0)


class PreferenceConfig(RewardConfig):
    """Base of the rewards that use a reward model."""

    model: str
    """Name of an earlier reward_model stage."""

    tasks: list[str] | None = Field(default=[TASK])
    """Tasks whose prompts this reward scores (patterns such as gym:*); null: all."""

    scale: Literal["score", "probability"] = "score"
    """The model's score, or its sigmoid."""

    def build(self) -> Reward:
        raise ConfigError(
            f"a preference reward (model: {self.model}) needs its model on the ranks, which only grpo "
            "provides; use a rule here, or a judge"
        )

    def with_model(self, model: TextScorer) -> Reward:
        """The scorer, restricted to the prompts of `tasks`."""
        reward = PreferenceReward(model, type(self).part, self.scale)
        return reward if self.tasks is None else OfTasks(reward, self.tasks)

    @staticmethod
    def part(text: str) -> str | None:
        """The part of a response that the model scores; None if there is none."""
        raise NotImplementedError
