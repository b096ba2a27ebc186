"""MegatronScorer: types.Scorer on Megatron-Core, a policy's architecture with a scalar head.

A loss over scores connects sequences in different packs, so an update takes two passes. The first computes
all scores without gradients, and from them the derivative of the loss by each score. The second trains on
packs as usual, with that derivative as the weight of the sequence's last value: by the chain rule the sum of
weight x value has the gradient of the loss, in any packing and layout. The price is one more forward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.types import PackedBatch, Replicas, ScoreLoss, StepStats, TrainSequence


class MegatronScorer:
    """types.Scorer around a MegatronPolicy that was built with score_head=True."""

    def __init__(self, model: MegatronPolicy) -> None:
        assert model.score_head, "the model has a vocabulary head"
        self.model = model

    @property
    def replicas(self) -> Replicas:
        return self.model.replicas

    def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        return self._scores([_sequence(ids, self.model.eos_ids[0]) for ids in sequences]).tolist()

    def train_step(self, sequences: Sequence[Sequence[int]], loss: ScoreLoss, *, lr: float) -> StepStats:
        given = [_sequence(ids, self.model.eos_ids[0]) for ids in sequences]
        scores = self._scores(given).requires_grad_()
        own, sums = loss(scores)
        (derivative,) = torch.autograd.grad(own, scores)
        weighted = [
            TrainSequence(s.token_ids, s.weights * slope)
            for s, slope in zip(given, derivative.tolist(), strict=True)
        ]
        stats = self.model.train_step(weighted, _values, lr=lr)
        flat = {
            f"{name}/{part}": float(pair[i]) for name, pair in sums.items() for i, part in enumerate("sc")
        }
        total = self.replicas.sum({"loss": float(own), **flat})
        means = {name: total[f"{name}/s"] / (total[f"{name}/c"] or 1.0) for name in sums}
        metrics = {**stats.metrics, **means}
        return StepStats(total["loss"], stats.grad_norm, metrics, stats.num_tokens)

    def _scores(self, sequences: Sequence[TrainSequence]) -> Tensor:
        """[N]: scores of this data-parallel rank's sequences."""
        values = self.model.logprobs(sequences)
        return torch.stack([value[-1] for value in values]) if values else torch.zeros(0)


def _sequence(ids: Sequence[int], eos_id: int) -> TrainSequence:
    """Every token is an input, so EOS is appended as the last label; the value at the last input is the
    score."""
    weights = torch.zeros(len(ids) + 1)
    weights[-1] = 1.0
    return TrainSequence(torch.tensor([*ids, eos_id]), weights)


def _values(values: Tensor, entropy: Tensor | None, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """[T]: the values as they are; the weights are the loss's derivatives."""
    return values, {}
