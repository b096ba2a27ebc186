"""What must hold before and in the first step of grpo, or the run stops.

Each gate catches what would otherwise spoil a run in silence: a base that has nothing to reinforce, a sampler
that is not the model in training, a reference with other weights, a training pass that computes something
else than the scoring pass.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from megatron_r1.errors import GateError
from megatron_r1.rl.base import k3
from megatron_r1.section import Section
from megatron_r1.stages.grpo.metrics import drift_of
from megatron_r1.types import LossInput, Replicas, StepStats, TrainSequence


class Gates(Section):
    """What must hold, or the run stops."""

    drift: float = Field(default=1.05, ge=1)
    """Highest exp of the mean absolute gap of rollout and training log-probs, before the first update."""
    kl: float = Field(default=1e-3, ge=0)
    """Highest KL (k3) of the policy to the reference before the first update: they are the same weights."""
    ratio: float = Field(default=1e-3, ge=0)
    """Farthest that the first update's mean importance ratio may lie from 1: nothing has moved yet."""
    metric: str | None = None
    """A metric of the first evaluation that the base must reach; null: no demand."""
    at_least: float = 0.0
    """Its least value."""

    def require_base(self, stage: str, metrics: Mapping[str, float]) -> None:
        """metrics: of the first evaluation."""
        if self.metric is not None and metrics.get(self.metric, -math.inf) < self.at_least:
            raise GateError(
                f"stage {stage}: the base has {self.metric} {metrics.get(self.metric)}, below "
                f"{self.at_least}; RL would collapse to guesses. Train the base longer, or lower "
                "gates.at_least"
            )

    def require_same_sampler(
        self, stage: str, replicas: Replicas, sequences: Sequence[TrainSequence], start: Sequence[Tensor]
    ) -> None:
        """The rollout's log-probs and the trainer's must agree. start: the policy's before any update."""
        drift = drift_of(_mean_gap(replicas, sequences, start, "rollout_logprobs", torch.abs))
        if not drift <= self.drift:
            raise GateError(
                f"stage {stage}: rollout and training log-probs differ before the first update: "
                f"drift {drift:.4f}, the limit is {self.drift} (gates.drift). Every later step "
                "would be off-policy without knowing"
            )

    def require_same_reference(
        self, stage: str, replicas: Replicas, sequences: Sequence[TrainSequence], start: Sequence[Tensor]
    ) -> None:
        """The policy is the reference, as long as nothing was updated."""
        kl = _mean_gap(replicas, sequences, start, "ref_logprobs", k3)
        if not kl <= self.kl:
            raise GateError(
                f"stage {stage}: the policy's KL to the reference is {kl:.2e} before the first update, the "
                f"limit is {self.kl} (gates.kl). They should be the same weights: the KL term would pull the "
                "policy to another model"
            )

    def require_on_policy(self, stage: str, first: StepStats) -> None:
        """first: of the first update, made with the weights that the log-probs before it were made with."""
        ratio = first.metrics["ratio"]
        if not abs(ratio - 1) <= self.ratio:
            raise GateError(
                f"stage {stage}: the importance ratio of the first update is {ratio:.6f}, not 1 within "
                f"{self.ratio} (gates.ratio). Log-probs in training differ from those computed before it "
                "with the same weights"
            )


def _mean_gap(
    replicas: Replicas,
    sequences: Sequence[TrainSequence],
    start: Sequence[Tensor],
    field: LossInput,
    measure: Callable[[Tensor], Tensor],
) -> float:
    """Over all response tokens: the measure of start's log-probs minus the field's."""
    gap = {"sum": 0.0, "count": 0.0}
    for sequence, logprobs in zip(sequences, start, strict=True):
        response = sequence.weights > 0
        gap["sum"] += float(measure((logprobs - sequence.loss_inputs.required(field))[response]).sum())
        gap["count"] += float(response.sum())
    total = replicas.sum(gap)
    return total["sum"] / max(1.0, total["count"])
