"""Majority vote over several answers to a prompt (cons@k), where equal answers vote together.

"1/2", "0.5" and \\frac{1}{2} are equal, by the rules that grade them. All right answers are equal. Wrong ones
are compared with each other, each as if it were the reference; beyond the MAX_TEXTS most frequent texts of a
prompt, only identical texts are equal.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from megatron_r1.rewards.accuracy import AccuracyReward
from megatron_r1.types import Scored

MAX_TEXTS = 24  # per prompt, which makes at most 276 pairs
_RIGHT = -1


def majorities(reward: AccuracyReward, questions: Sequence[Sequence[Scored]]) -> list[float | None]:
    """For each prompt's completions, 1 if the most frequent answer is right, otherwise 0.

    Completions without an answer don't vote; 0 if none votes. In a tie the first answer wins. None for a
    prompt whose reference is ungradable.
    """
    graded = [[s for s in samples if s.parts["accuracy"].value is not None] for samples in questions]
    answers = [[_vote(reward, sample) for sample in samples] for samples in graded]
    classes = _classes(reward, graded, answers)
    return [_majority(votes, same) if votes else None for votes, same in zip(answers, classes, strict=True)]


def _majority(votes: Sequence[str | int | None], same: dict[str, str]) -> float:
    counts = Counter(same.get(v, v) if isinstance(v, str) else v for v in votes if v is not None)
    return float(bool(counts) and counts.most_common(1)[0][0] == _RIGHT)


def _vote(reward: AccuracyReward, sample: Scored) -> str | int | None:
    """A completion's vote: the text of a wrong answer, _RIGHT for a right one, None without an answer."""
    return _RIGHT if sample.parts["accuracy"].value == 1.0 else reward.answer_of(sample.completion)


def _classes(
    reward: AccuracyReward,
    questions: Sequence[Sequence[Scored]],
    answers: Sequence[Sequence[str | int | None]],
) -> list[dict[str, str]]:
    """For each prompt, a mapping from a wrong answer's text to the first text equal to it."""
    asked = []
    for number, (samples, votes) in enumerate(zip(questions, answers, strict=True)):
        texts = [text for text, _ in Counter(v for v in votes if isinstance(v, str)).most_common(MAX_TEXTS)]
        asked += [(number, samples[0].completion.prompt.task, *pair) for pair in combinations(texts, 2)]
    verdicts = reward.same([(task, one, other) for _, task, one, other in asked])
    classes: list[dict[str, str]] = [{} for _ in questions]
    for (number, _, one, other), is_same in zip(asked, verdicts, strict=True):
        if is_same:
            same = classes[number]
            same.setdefault(other, same.get(one, one))
    return classes
