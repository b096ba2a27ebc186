"""Which samples are right: the first grader that can judge a sample decides.

Rules come first; what no rule can grade goes to the next grader, such as a generative judge with the
reference in its prompt (DeepSeek-R1, section 2.3.3). A sample that nobody can grade is never kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from megatron_r1.types import Completion, Score


class Grader(Protocol):
    """A rule or a judge: one score a completion, in order; value None: it can't say, and `note` says why.

    Every reward is one (rewards/base.py). A generative judge implements this and returns None for a
    verdict that it can't parse.
    """

    def score(self, completions: Sequence[Completion]) -> list[Score]: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """right None: ungradable. by: the grader that decided. scores: of every grader that was asked."""

    right: bool | None
    by: str
    scores: dict[str, Score]


def judge(
    completions: Sequence[Completion], graders: Mapping[str, Grader], *, at_least: float = 1.0
) -> list[Verdict]:
    """One verdict a completion, in order. at_least: the score from which on a sample is right."""
    scores: list[dict[str, Score]] = [{} for _ in completions]
    undecided = list(range(len(completions)))
    for name, grader in graders.items():
        found = grader.score([completions[i] for i in undecided])
        assert len(found) == len(undecided), f"{name}: one score a completion"
        for i, score in zip(undecided, found, strict=True):
            scores[i][name] = score
        undecided = [i for i in undecided if scores[i][name].value is None]
    return [_verdict(asked, at_least=at_least) for asked in scores]


def _verdict(asked: dict[str, Score], *, at_least: float) -> Verdict:
    name = next((name for name, score in asked.items() if score.value is not None), "")
    value = asked[name].value if name else None
    return Verdict(None if value is None else value >= at_least, name, asked)
