"""Grading through the pool, which checks the reference first.

A reference that its grader can't read, or that does not equal itself, makes the completion ungradable. If the
reference is sound, any failure of the grader is the answer's fault, and the answer is wrong.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from megatron_r1.rewards.grading.pool import GradingPool, Job, Verdict
from megatron_r1.types import Score

_FAULTS = {  # the reference's fault, by the verdict on (reference, reference)
    Verdict.RIGHT: "",
    Verdict.WRONG: "reference does not equal itself for its grader",
    Verdict.UNREADABLE: "reference can't be read by its grader",
    Verdict.FAILED: "the grader failed on the reference",
    Verdict.KILLED: "reference is over the grader's limits",
    Verdict.STALLED: "the grader stalled on the reference",
}
_SCORES = {
    Verdict.RIGHT: Score(1.0),
    Verdict.WRONG: Score(0.0),
    Verdict.UNREADABLE: Score(None, _FAULTS[Verdict.UNREADABLE]),
    Verdict.FAILED: Score(0.0, "the grader failed on the answer"),
    Verdict.KILLED: Score(0.0, "over the grader's limits"),
    Verdict.STALLED: Score(None, "the grader stalled"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """An answer that needs the pool.

    check: the job that grades the reference against itself; None if it is known to be sound. answer: the job
    that grades the answer, or its score if the reference is sound.
    """

    check: Job | None
    answer: Job | Score


class PooledGrader:
    """Grades items; equal jobs run once, and verdicts on references are cached."""

    def __init__(self, pool: GradingPool) -> None:
        self._pool = pool
        self._known_checks: dict[bytes, Verdict] = {}

    def grade(self, items: Sequence[Item]) -> list[Score]:
        faults = self._reference_faults([item.check for item in items])
        sound = [item for item, fault in zip(items, faults, strict=True) if not fault]
        verdicts = iter(self._run([item.answer for item in sound if not isinstance(item.answer, Score)]))
        scores = []
        for item, fault in zip(items, faults, strict=True):
            if fault:
                scores.append(Score(None, fault))
            elif isinstance(item.answer, Score):
                scores.append(item.answer)
            else:
                scores.append(_SCORES[next(verdicts)])
        return scores

    def _reference_faults(self, checks: Sequence[Job | None]) -> list[str]:
        keys = [None if check is None else _key(check) for check in checks]
        unknown = [
            (key, check)
            for key, check in zip(keys, checks, strict=True)
            if key is not None and check is not None and key not in self._known_checks
        ]
        verdicts = self._run([check for _, check in unknown])
        found = {key: verdict for (key, _), verdict in zip(unknown, verdicts, strict=True)}
        # a stall says nothing about the reference, so it is not cached
        self._known_checks |= {key: v for key, v in found.items() if v is not Verdict.STALLED}
        found |= {key: self._known_checks[key] for key in keys if key is not None and key not in found}
        return ["" if key is None else _FAULTS[found[key]] for key in keys]

    def _run(self, jobs: Sequence[Job]) -> list[Verdict]:
        keys = [_key(job) for job in jobs]
        unique = dict(zip(keys, jobs, strict=True))
        verdicts = dict(zip(unique, self._pool.run(list(unique.values())), strict=True))
        return [verdicts[key] for key in keys]


def _key(job: Job) -> bytes:
    return sha256(pickle.dumps(job)).digest()  # hash() fails for the dicts in a gym entry
