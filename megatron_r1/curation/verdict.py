"""Verdict on a completion: the first grader that can grade it decides whether it is right.

Rules come first. What they can't grade goes to the next grader, such as a generative judge with the reference
in its prompt (DeepSeek-R1, section 2.3.3). A completion that no grader can grade is dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from megatron_r1.types import Completion, Score


class Grader(Protocol):
    """A rule or a judge: one score for each completion, in order; value None: ungradable, `note` says why.

    Every reward is a grader (rewards/base.py). A generative judge returns None where it can't parse the
    verdict.
    """

    def score(self, completions: Sequence[Completion]) -> list[Score]: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """right None: ungradable. by: the grader that decided. scores: by name of each grader that was asked."""

    right: bool | None
    by: str
    scores: dict[str, Score]


def judge(
    completions: Sequence[Completion], graders: Mapping[str, Grader], *, at_least: float = 1.0
) -> list[Verdict]:
    """One verdict for each completion, in order. at_least: the minimum score of a right one."""
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
