"""Signs that a run of RL has collapsed, watched over its steps: stop or warn, with the samples that show it.

Equal rewards in every group give no gradient: all outputs wrong, all right, or a reward that says the same to
everything. (Where no output can be graded at all the stage ends whatever the guards say:
stages/evaluation/ungraded.py.) Short outputs are what a policy falls to when it gives up reasoning. Drift is
what is left of the sampler's agreement with the training pass after the first step (sanity_checks.py checks
that one).
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from megatron_r1.errors import GateError
from megatron_r1.section import Section
from megatron_r1.types import Scored

SAMPLES_SHOWN = 3
SAMPLE_CHARACTERS = 300

log = logging.getLogger(__name__)


class Guards(Section):
    """What is watched in every step; each must be bad for `patience` steps in a row."""

    action: Literal["stop", "warn"] = "warn"
    """What happens then: the run stops (exit code 5), or a warning is logged every `patience` steps."""
    patience: int = Field(default=20, ge=1)
    """Steps in a row."""
    equal_rewards: bool = True
    """No group has two different rewards: they are all equal, or too few of its outputs can be graded."""
    drift: float | None = Field(default=None, ge=1)
    """Highest exp of the mean absolute gap of rollout and training log-probs; null: not watched."""
    min_length: float | None = Field(default=None, gt=0)
    """Lowest mean length of an output in tokens; null: not watched."""

    def bad(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """What is bad in a step, by the guard's name: the value and what it means."""
        found = {}
        equal, ungradable = metrics["train/zero_std_groups"], metrics["train/ungradable_groups"]
        if self.equal_rewards and equal and equal + ungradable > 1 - 1e-9:
            others = f", and {ungradable:.0%} of the groups can't be graded" if ungradable else ""
            found["equal_rewards"] = (
                f"a group's rewards are all equal (mean {metrics['train/reward']:.3f}){others}: nothing is "
                "learnt; see whether the reward can grade these questions, or change their difficulty"
            )
        drift = metrics.get("rollout/drift")
        if self.drift is not None and drift is not None and not drift <= self.drift:
            found["drift"] = (
                f"rollout and training log-probs differ by {drift:.3f}, the limit is {self.drift}; "
                "use rollout_correction or routing_replay, or fewer updates a step"
            )
        length = metrics["rollout/length"]
        if self.min_length is not None and length < self.min_length:
            found["min_length"] = (
                f"outputs are {length:.1f} tokens long on average, the limit is {self.min_length:g}; "
                "see whether a reward pays for short answers, or lower the learning rate"
            )
        return found


class GuardWatch:
    """Counts the bad steps in a row; `counts` goes into the checkpoint."""

    def __init__(self, guards: Guards, counts: Mapping[str, int]) -> None:
        self._guards = guards
        self.counts = dict(counts)

    def look(self, stage: str, step: int, metrics: Mapping[str, float], scored: Sequence[Scored]) -> None:
        """After a step. The metrics are the same on every rank, so that all ranks stop together."""
        bad = self._guards.bad(metrics)
        self.counts = {name: self.counts.get(name, 0) + 1 for name in bad}
        for name, why in bad.items():
            if self.counts[name] % self._guards.patience:
                continue
            text = f"stage {stage}, step {step}: for {self.counts[name]} steps {why} (guards.{name})"
            if self._guards.action == "stop":
                raise GateError(f"{text}\n{_samples(scored)}")
            log.warning("%s\n%s", text, _samples(scored))


def _samples(scored: Sequence[Scored]) -> str:
    """The first outputs of this replica with their rewards."""
    lines = []
    for one in scored[:SAMPLES_SHOWN]:
        text = one.completion.text[:SAMPLE_CHARACTERS]
        lines.append(f"  reward {one.reward}, to {one.completion.prompt.question!r}: {text!r}")
    return "\n".join(lines)
