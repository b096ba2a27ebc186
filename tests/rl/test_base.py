"""What holds for every loss of RL, by a loss of one line; and the loss of examples/, by hand."""

import runpy
from math import log
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from megatron_r1.rl.base import LossConfig
from megatron_r1.types import LossInputs, PackedBatch

OWN_LOSS = Path(__file__).parents[2] / "examples" / "own_loss.py"


class Plain(LossConfig):
    """Minus the log-prob."""

    kind: Literal["plain"] = "plain"

    def per_token(self, logprobs: Tensor, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return -logprobs, {"soft_weight": torch.full_like(logprobs, 2.0)}


def batch_of(*lengths: int, weights: list[float] | None = None, **inputs: list[float]) -> PackedBatch:
    total = sum(lengths)
    unused = torch.zeros(total, dtype=torch.long)
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    given = LossInputs(**{name: torch.tensor(values) for name, values in inputs.items()})
    return PackedBatch(unused, unused, torch.tensor(weights or [1.0] * total), unused, offsets, given)


def test_what_every_loss_reports_by_hand():
    batch = batch_of(
        3,
        weights=[0.0, 0.5, 0.5],
        old_logprobs=[9.0, log(1 / 4), log(1 / 2)],
        rollout_logprobs=[9.0, log(1 / 4), log(1 / 2) - 0.3],
        ref_logprobs=[9.0, log(1 / 2), log(1 / 4)],
        fresh=[0.0, 1.0, 0.0],
    )
    logprobs = torch.tensor([-1000.0, log(1 / 2), log(1 / 2)], requires_grad=True)
    loss, sums = Plain().function()(logprobs, torch.tensor([torch.nan, 1.0, 3.0]), batch)
    assert loss.tolist() == pytest.approx([0.0, log(2), log(2)])
    means = {name: (total / count).item() for name, (total, count) in sums.items()}
    expected = {
        "drift": 0.0,  # of the fresh token alone
        "ratio": (2 + 1) / 2,
        "kl": (1 / 2 + log(2) - 1) / 2,
        "kl_k1": log(2) / 2,
        "entropy": 2.0,
        "soft_weight": 2.0,
    }
    assert means == pytest.approx(expected, abs=1e-7)
    assert not any(value.requires_grad for value in sums.values())


def test_what_the_batch_lacks_is_not_reported_and_the_first_update_has_a_ratio_of_one():
    _, sums = Plain().function()(torch.tensor([-1.0, -2.0]), None, batch_of(2))
    assert {name: value.tolist() for name, value in sums.items()} == {
        "ratio": [2.0, 2.0],
        "soft_weight": [4.0, 2.0],
    }


def test_a_loss_asks_for_neither_a_reference_nor_a_correction_unless_it_says_so():
    assert (Plain().needs_reference, Plain().needs_rollout) == (False, False)


def test_the_loss_of_the_examples_tapers_what_went_wrong_by_the_ratio_of_the_whole_completion():
    own = runpy.run_path(str(OWN_LOSS))["LOSS"](kind="own_loss", cap=1.0)
    # two tokens each: ratios of the completions 1/4 (good), 1/4 (bad), 4 (bad)
    ratios = [0.5, 0.5, 0.5, 0.5, 2.0, 2.0]
    logprobs = torch.full((6,), log(0.5), requires_grad=True)
    old = logprobs.detach() - torch.tensor(ratios).log()
    batch = batch_of(2, 2, 2, advantages=[2.0, 2.0, *[-1.0] * 4], old_logprobs=old.tolist())
    loss, sums = own.function()(logprobs, None, batch)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert gradient.tolist() == pytest.approx([-2, -2, 0.25, 0.25, 1, 1])
    assert float(sums["ratio"][0] / sums["ratio"][1]) == pytest.approx(1.0)
