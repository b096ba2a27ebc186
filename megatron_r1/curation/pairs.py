"""Selection of preference pairs: a clear verdict of the judge and balanced lengths (DeepSeek-R1, 2.3.4).

The judge compares a pair several times, with the two responses in alternating order; the mean difference of
its scores decides. Lengths are balanced so that a reward model doesn't learn that longer is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ASKS = 4
MARGIN = 1.0
TOLERANCE = 0.02  # of the mean length


@dataclass(frozen=True, slots=True)
class Judged:
    """margin: mean score of the first minus that of the second; None if any verdict couldn't be parsed."""

    margin: float | None

    @property
    def first_is_better(self) -> bool:
        return self.margin is not None and self.margin > 0


def orders(asks: int, *, key: int) -> list[bool]:
    """For each comparison, whether the responses are swapped: in half of them, drawn by the key."""
    swapped = [i % 2 == 1 for i in range(asks)]
    for i in range(asks - 1, 0, -1):  # Fisher-Yates by the digits of the key
        key, j = divmod(key, i + 1)
        swapped[i], swapped[j] = swapped[j], swapped[i]
    return swapped


def judged(answers: Sequence[tuple[float, float] | None], swapped: Sequence[bool]) -> Judged:
    """The verdict from every comparison's scores of A and B; None in `answers` makes the margin None."""
    differences = [
        (answer[1] - answer[0]) if swap else (answer[0] - answer[1])
        for answer, swap in zip(answers, swapped, strict=True)
        if answer is not None
    ]
    if len(differences) < len(answers):
        return Judged(None)
    return Judged(sum(differences) / len(differences))


def unbalanced(gaps: Sequence[int], lengths: Sequence[int], *, tolerance: float = TOLERANCE) -> set[int]:
    """The pairs to drop so that chosen and rejected have the same mean length, within the tolerance.

    gaps: length of the chosen minus that of the rejected response. lengths: of both together. Of the side
    that is longer overall, the widest gaps are dropped first, unless that would make the other side longer.
    """
    total, size = sum(gaps), sum(lengths)
    dropped: set[int] = set()
    for index in sorted(range(len(gaps)), key=lambda i: (-abs(gaps[i]), i)):
        if abs(total) <= tolerance * size / 2:
            break
        if gaps[index] * total > 0 and abs(gaps[index]) <= abs(total):
            dropped.add(index)
            total, size = total - gaps[index], size - lengths[index]
    return dropped
