"""Groups that carry no signal: kept, dropped, or replaced by freshly sampled ones, and counted.

A group whose gradable rewards are all equal has advantage 0 everywhere. The paper keeps it: it still
counts in the loss's denominators and in the KL term. DAPO (2503.14476, section 3.2) samples until the
batch holds only groups with signal.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from megatron_r1.section import Section
from megatron_r1.types import Scored

Group = Sequence[Scored]
Kind = Literal["signal", "equal", "ungradable"]


class GroupFilter(Section):
    """What becomes of groups without signal."""

    no_signal: Literal["keep", "drop", "resample"] = "keep"
    """keep: as the paper. drop: they leave the update and its denominators. resample: dropped, and
    questions are sampled until the batch is full (DAPO's dynamic sampling)."""

    max_rounds: int = Field(default=10, ge=1)
    """At most this many rounds of sampling with "resample"; then the batch stays smaller."""


@dataclass(slots=True)
class GroupCounts:
    """How many groups were sampled in how many rounds, and how many of each kind."""

    rounds: int = 0
    kinds: dict[Kind, int] = field(default_factory=lambda: {"signal": 0, "equal": 0, "ungradable": 0})

    def as_metrics(self) -> dict[str, float]:
        """Sums, to be added up over the copies of the model (`rounds` is the same on all)."""
        return {f"groups/{kind}": float(count) for kind, count in self.kinds.items()}


def group_kind(group: Group, *, apart: Collection[str] | None = None) -> Kind:
    """signal: two gradable rewards differ. ungradable: fewer than two are gradable. equal: the rest.

    apart: the rewards that are normalised each for itself: then the parts' differences count, not the sums'.
    """
    graded = [scored for scored in group if scored.reward is not None]
    if len(graded) < 2:
        return "ungradable"
    columns = [[scored.reward for scored in graded]]
    if apart is not None:
        columns = [[s.parts[name].value for s in graded if name in s.parts] for name in apart]
    return "signal" if any(len(set(column)) > 1 for column in columns) else "equal"


def collect_groups(
    sample: Callable[[int, int], Sequence[Group]],
    *,
    options: GroupFilter,
    num_groups: int,
    agree: Callable[[int], int] = lambda missing: missing,
    apart: Collection[str] | None = None,
) -> tuple[list[Group], GroupCounts]:
    """The groups of one update, in the order sampled, at most num_groups of them.

    sample(round, count): `count` new groups, scored; round counts from 0, so that the random draws of
    a round can depend on it.
    agree(missing): the largest `missing` of all copies of the model. Sampling is a collective, so every
    copy must sample in every round; a copy that has enough drops the surplus.
    apart: as in group_kind.
    """
    groups: list[Group] = []
    counts = GroupCounts()
    max_rounds = options.max_rounds if options.no_signal == "resample" else 1
    while counts.rounds < max_rounds and (missing := agree(num_groups - len(groups))) > 0:
        for group in sample(counts.rounds, missing):
            kind = group_kind(group, apart=apart)
            counts.kinds[kind] += 1
            if kind == "signal" or options.no_signal == "keep":
                groups.append(group)
        counts.rounds += 1
    return groups[:num_groups], counts
