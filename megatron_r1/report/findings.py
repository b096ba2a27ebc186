"""Findings about an RL stage: claims beside what the run measured, in words.

The package makes none. A plug-in's FINDINGS is a function that makes them (a Finder), as that of
examples/toy/findings.py.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from megatron_r1 import registry
from megatron_r1.report.plot import Point
from megatron_r1.report.record import StageRecord
from megatron_r1.tracking.samples import Sample

# Words of re-evaluation, after the list in the appendix of the Nature text, less its everyday words.
REFLECTION = re.compile(r"\b(?:wait|mistake|retry|recheck|verify|wrong)\b|等等|重新|检查|错误", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """claim: the paper's, or one often read into it.

    verdict: reproduced | in part | not reproduced | not measured.
    """

    claim: str
    verdict: str
    text: str


# of the RL stage, the evaluations before and after it, and the share of samples with a word of re-evaluation
Finder = Callable[[StageRecord, StageRecord | None, StageRecord | None, Sequence[Point]], list[Finding]]


def findings(
    rl: StageRecord, before: StageRecord | None, after: StageRecord | None, reflection: Sequence[Point]
) -> list[Finding]:
    """What the plug-ins find in one RL stage, in their order."""
    finders: list[Finder] = registry.findings()
    return [found for finder in finders for found in finder(rl, before, after, reflection)]


def reflection_by_step(samples: Iterable[Sample]) -> list[Point]:
    """Share of each step's samples with a word of re-evaluation."""
    hits: dict[int, list[bool]] = {}
    for sample in samples:
        hits.setdefault(sample.step, []).append(REFLECTION.search(sample.text) is not None)
    return [(step, sum(found) / len(found)) for step, found in sorted(hits.items())]
