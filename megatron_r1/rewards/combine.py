"""Combines several rewards to their weighted sum and keeps the parts.

R1 adds up its rule rewards (DeepSeek-R1, section 2.2.2). If any part is ungradable, or no reward scores the
prompt, the whole reward is None and the completion is left out of its group. Default scores instead of None
are how unparseable references earned 1.0 in open-r1 (issues 159 and 293).
"""

import math
from collections.abc import Mapping, Sequence

from megatron_r1.errors import GateError
from megatron_r1.rewards.base import ELSEWHERE, Reward
from megatron_r1.types import Completion, Prompt, Score, Scored


def combine(completions: Sequence[Completion], rewards: Mapping[str, tuple[float, Reward]]) -> list[Scored]:
    """Score every completion by every reward, in order. rewards: name -> (weight, scorer).

    GateError if a scorer returns the wrong number of scores, or one that is not finite.
    """
    columns = columns_of(completions, {name: reward for name, (_, reward) in rewards.items()})
    return weigh(completions, columns, {name: weight for name, (weight, _) in rewards.items()})


def columns_of(completions: Sequence[Completion], rewards: Mapping[str, Reward]) -> dict[str, list[Score]]:
    """The scores of all completions by each reward."""
    return {name: _checked(name, reward.score(completions), completions) for name, reward in rewards.items()}


def weigh(
    completions: Sequence[Completion], columns: Mapping[str, list[Score]], weights: Mapping[str, float]
) -> list[Scored]:
    """The weighted sum of each completion's scores, with its parts.

    The note of an ungradable part names the file and line of the prompt, if it has one.
    """
    scored = []
    for i, completion in enumerate(completions):
        parts = {
            name: _placed(column[i], completion.prompt)
            for name, column in columns.items()
            if column[i] != ELSEWHERE
        }
        scored.append(Scored(completion=completion, reward=_weighted_sum(parts, weights), parts=parts))
    return scored


def _placed(score: Score, prompt: Prompt) -> Score:
    unplaced = score.value is not None or not prompt.place
    return score if unplaced else Score(None, f"{prompt.place}: {score.note}")


def _weighted_sum(parts: Mapping[str, Score], weights: Mapping[str, float]) -> float | None:
    if not parts:
        return None
    total = 0.0
    for name, score in parts.items():
        if score.value is None:
            return None
        total += weights[name] * score.value
    return total


def _checked(name: str, scores: list[Score], completions: Sequence[Completion]) -> list[Score]:
    if len(scores) != len(completions):
        raise GateError(
            f"rewards.{name}: returned {len(scores)} scores for {len(completions)} completions; "
            "a reward returns exactly one score a completion, in order"
        )
    for i, score in enumerate(scores):
        if score.value is not None and not math.isfinite(score.value):
            raise GateError(
                f"rewards.{name}: score {score.value} for sample {i} (prompt {completions[i].prompt.id}) is "
                "not finite; a reward that can't judge a sample returns None with a note"
            )
    return scores
