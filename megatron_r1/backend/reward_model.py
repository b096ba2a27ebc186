"""The Scorer that stages and rewards see: a policy's architecture with a scalar head.

A loss over scores joins sequences that lie in different packs. So an update takes two passes: all scores
without gradients, and with them the derivative of the loss by each score; then packs as usual, that
derivative being the weight of the sequence's last value. The sum of weight x value has the gradient of the
loss (chain rule), whatever the packing and the layout; the price is one forward pass more.
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
        """[N] of this copy's sequences."""
        values = self.model.logprobs(sequences)
        return torch.stack([value[-1] for value in values]) if values else torch.zeros(0)


def _sequence(ids: Sequence[int], eos_id: int) -> TrainSequence:
    """Every token is an input, one more follows as a label; the value at the last input is the score."""
    weights = torch.zeros(len(ids) + 1)
    weights[-1] = 1.0
    return TrainSequence(torch.tensor([*ids, eos_id]), weights)


def _values(values: Tensor, entropy: Tensor | None, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """[T] the values themselves: the weights hold the loss's derivatives."""
    return values, {}
