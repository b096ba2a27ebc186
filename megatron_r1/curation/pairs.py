"""Which pairs of responses become preferences: clearly judged, of balanced lengths (DeepSeek-R1, 2.3.4).

The judge is asked several times with the two in changing order; the mean difference decides. Without a
balance of lengths, a reward model would learn that longer is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ASKS = 4
MARGIN = 1.0
TOLERANCE = 0.02  # of the mean length


@dataclass(frozen=True, slots=True)
class Judged:
    """margin: mean score of the first minus that of the second; None where an answer was no verdict."""

    margin: float | None

    @property
    def first_is_better(self) -> bool:
        return self.margin is not None and self.margin > 0


def orders(asks: int, *, key: int) -> list[bool]:
    """For each time the judge is asked, whether the two are swapped: half of the times, by the key."""
    swapped = [i % 2 == 1 for i in range(asks)]
    for i in range(asks - 1, 0, -1):  # Fisher-Yates by the digits of the key
        key, j = divmod(key, i + 1)
        swapped[i], swapped[j] = swapped[j], swapped[i]
    return swapped


def judged(answers: Sequence[tuple[float, float] | None], swapped: Sequence[bool]) -> Judged:
    """answers: the scores of A and B each time. One that is no verdict makes the pair none."""
    differences = [
        (answer[1] - answer[0]) if swap else (answer[0] - answer[1])
        for answer, swap in zip(answers, swapped, strict=True)
        if answer is not None
    ]
    if len(differences) < len(answers):
        return Judged(None)
    return Judged(sum(differences) / len(differences))


def unbalanced(gaps: Sequence[int], lengths: Sequence[int], *, tolerance: float = TOLERANCE) -> set[int]:
    """Which pairs to leave out so that chosen and rejected have the same mean length, within the tolerance.

    gaps: length of the chosen minus that of the rejected response. lengths: of both together. The widest gaps
    on the side that prevails go first, unless the other side would then prevail.
    """
    total, size = sum(gaps), sum(lengths)
    dropped: set[int] = set()
    for index in sorted(range(len(gaps)), key=lambda i: (-abs(gaps[i]), i)):
        if abs(total) <= tolerance * size / 2:
            break
        if gaps[index] * total > 0 and abs(gaps[index]) <= abs(total):  # else the other side would prevail
            dropped.add(index)
            total, size = total - gaps[index], size - lengths[index]
    return dropped
