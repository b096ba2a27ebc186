"""The majority of several answers to one question: answers that say the same are one vote (cons@k).

"1/2", "0.5" and \\frac{1}{2} are one answer, by the rules that grade it. All right answers are one. The wrong
ones are compared with each other, each as if it were the reference; beyond the MAX_TEXTS most frequent texts
of a question, a text is a vote of its own.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from megatron_r1.rewards.accuracy import AccuracyReward
from megatron_r1.types import Scored

MAX_TEXTS = 24  # a question: at most 276 pairs
_RIGHT = -1


def majorities(reward: AccuracyReward, questions: Sequence[Sequence[Scored]]) -> list[float | None]:
    """For each question's samples, whether the most frequent answer is right.

    Samples without an answer have no vote, 0 if none has one; of a tie the first answer wins. None for a
    question whose reference can't be graded.
    """
    graded = [[s for s in samples if s.parts["accuracy"].value is not None] for samples in questions]
    answers = [[_vote(reward, sample) for sample in samples] for samples in graded]
    classes = _classes(reward, graded, answers)
    return [_majority(votes, same) if votes else None for votes, same in zip(answers, classes, strict=True)]


def _majority(votes: Sequence[str | int | None], same: dict[str, str]) -> float:
    counts = Counter(same.get(v, v) if isinstance(v, str) else v for v in votes if v is not None)
    return float(bool(counts) and counts.most_common(1)[0][0] == _RIGHT)


def _vote(reward: AccuracyReward, sample: Scored) -> str | int | None:
    """The text of a wrong answer; all right answers are one."""
    return _RIGHT if sample.parts["accuracy"].value == 1.0 else reward.answer_of(sample.completion)


def _classes(
    reward: AccuracyReward,
    questions: Sequence[Sequence[Scored]],
    answers: Sequence[Sequence[str | int | None]],
) -> list[dict[str, str]]:
    """For each question, which earlier text each text of a wrong answer says the same as."""
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
