"""Reward-model losses and measures against numbers worked by hand."""

import math

import pytest
import torch

from megatron_r1.rl.preference import Judgement, calibration_error, correlation, judged, pair_loss, point_loss


def test_the_pair_loss_is_minus_log_sigmoid_of_the_margin() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, 3.0], requires_grad=True)
    loss, metrics = pair_loss(scores, num_pairs=4)
    assert float(loss.detach()) == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))) / 4)
    assert metrics["pair_accuracy"].tolist() == [1.0, 2.0]
    assert metrics["margin"].tolist() == [-2.0, 2.0]
    (slope,) = torch.autograd.grad(loss, scores)
    sigmoids = [1 / (1 + math.exp(1)), 1 / (1 + math.exp(-3))]
    assert slope.tolist() == pytest.approx(
        [-sigmoids[0] / 4, sigmoids[0] / 4, -sigmoids[1] / 4, sigmoids[1] / 4]
    )


def test_equal_scores_are_no_agreement() -> None:
    assert pair_loss(torch.tensor([1.0, 1.0]), num_pairs=1)[1]["pair_accuracy"].tolist() == [0.0, 1.0]


def test_the_point_loss_is_the_binary_cross_entropy() -> None:
    scores, labels = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    loss, metrics = point_loss(scores, labels, num_points=3)
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5))) / 3
    assert float(loss.detach()) == pytest.approx(expected)
    assert metrics["point_accuracy"].tolist() == [2.0, 3.0]


def test_shares_of_the_loss_add_up_over_the_replicas() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, 3.0])
    whole = pair_loss(scores, num_pairs=2)[0]
    parts = [pair_loss(scores[i : i + 2], num_pairs=2)[0] for i in (0, 2)]
    assert float(sum(parts)) == pytest.approx(float(whole))
    assert float(pair_loss(scores[:0], num_pairs=2)[0]) == 0.0


def test_a_confident_model_that_is_always_right_is_calibrated() -> None:
    ones = torch.ones(10, dtype=torch.float64)
    assert calibration_error(ones, ones) == 0
    assert calibration_error(ones, torch.zeros_like(ones)) == 1


def test_calibration_is_the_mean_gap_of_the_bins() -> None:
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.6, 0.6], dtype=torch.float64)
    right = torch.tensor([1.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    assert calibration_error(confidence, right) == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.1)


def test_correlation_is_pearson_s() -> None:
    a, b = (
        torch.tensor([1.0, 2, 3, 4], dtype=torch.float64),
        torch.tensor([2.0, 1, 4, 3], dtype=torch.float64),
    )
    assert correlation(a, b) == pytest.approx(float(torch.corrcoef(torch.stack([a, b]))[0, 1]))
    assert correlation(a, torch.ones_like(a)) == 0


def test_a_model_that_pays_for_length_shows_it() -> None:
    found = judged([Judgement(0.8, 1, 1.0 * n, 10.0 * n) for n in (1, 2, 3)])
    assert found["length_bias"] == pytest.approx(1)
    assert found["accuracy"] == 1
    assert found["loss"] == pytest.approx(-math.log(0.8))
    assert found["calibration"] == pytest.approx(0.2)


def test_a_half_sure_model_agrees_with_nobody() -> None:
    assert judged([Judgement(0.5, 1, 0.0, 0.0)])["accuracy"] == 0
