"""Losses of reward models, and what they are judged by.

Bradley-Terry: P(a better than b) = sigmoid(s_a - s_b)  (DeepSeek-R1, section 2.3.4: pairwise, helpful).
Point-wise:    P(good)            = sigmoid(s)          (the same section: harmless).
"""

# N sequences, P pairs

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CALIBRATION_BINS = 10


def pair_loss(scores: Tensor, *, num_pairs: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over num_pairs of -log sigmoid(s_chosen - s_rejected).

    scores: [2 P], chosen and rejected in turn. Returns the loss and (sum, count) of each metric.
    """
    margins = scores[0::2] - scores[1::2]
    detached = margins.detach()
    metrics = {"pair_accuracy": _mean_of((detached > 0).float()), "margin": _mean_of(detached)}
    return -F.logsigmoid(margins).sum() / num_pairs, metrics


def point_loss(scores: Tensor, labels: Tensor, *, num_points: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over num_points of the binary cross entropy. scores, labels (1 good, 0 bad): [N]."""
    loss = F.binary_cross_entropy_with_logits(scores, labels, reduction="sum") / num_points
    right = (scores.detach() > 0).float() == labels
    return loss, {"point_accuracy": _mean_of(right.float())}


def _mean_of(values: Tensor) -> Tensor:
    return torch.stack([values.sum(), torch.tensor(float(len(values)))])


@dataclass(frozen=True, slots=True)
class Judgement:
    """One held-out pair or point: the probability that the model gives to its label being so, and the facts.

    length: tokens of the chosen minus those of the rejected; of a point, its own.
    """

    probability: float  # that the first is better, or that the response is good
    label: float  # 1 if so; always 1 for a pair whose chosen response comes first
    score: float
    length: float


def judged(judgements: Sequence[Judgement]) -> dict[str, float]:
    """Accuracy, loss, calibration error and length bias on held-out items.

    calibration: expected calibration error, the mean over ten bins of |confidence - accuracy|, by their size.
    length_bias: correlation of the score with the length (of a pair, of both differences): what it would pay
    for being long.
    """
    probability = torch.tensor([j.probability for j in judgements], dtype=torch.float64)
    label = torch.tensor([j.label for j in judgements], dtype=torch.float64)
    score = torch.tensor([j.score for j in judgements], dtype=torch.float64)
    length = torch.tensor([j.length for j in judgements], dtype=torch.float64)
    right = (probability > 0.5).double() == label
    confidence = torch.maximum(probability, 1 - probability)
    loss = F.binary_cross_entropy(probability.clamp(1e-12, 1 - 1e-12), label)
    return {
        "accuracy": float(right.double().mean()),
        "loss": float(loss),
        "calibration": calibration_error(confidence, right.double()),
        "length_bias": correlation(score, length),
    }


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Both [N]; confidence in [0.5, 1]."""
    bins = ((confidence - 0.5) * 2 * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    gaps = [
        (confidence[bins == b].mean() - right[bins == b].mean()).abs() * (bins == b).sum() / len(bins)
        for b in bins.unique()
    ]
    return float(sum(gaps))


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; 0 where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    spread = a.norm() * b.norm()
    return float((a * b).sum() / spread) if spread > 0 else 0.0
