"""Experts' weights seen as one tensor: only where they lie so, and never as a copy."""

import torch

from megatron_r1.backend.rollout.decoder.expert_weights import stacked

E, OUT, IN = 4, 8, 12


def in_buffer(steps: list[int], size: int = OUT * IN) -> list[torch.Tensor]:
    """Weights of `size` numbers that begin at these places of one buffer."""
    buffer = torch.randn(max(steps) + size, generator=torch.Generator().manual_seed(0))
    return [buffer[step : step + size].view(-1, IN) for step in steps]


def test_weights_a_fixed_distance_apart_are_seen_in_order():
    weights = in_buffer([0, 200, 400, 600])
    found = stacked(weights)
    assert found is not None
    assert not found.reversed
    assert torch.equal(found.weights, torch.stack(weights))


def test_the_last_expert_may_lie_first_as_in_the_buffer_of_training():
    weights = in_buffer([600, 400, 200, 0])
    found = stacked(weights)
    assert found is not None
    assert found.reversed
    assert torch.equal(found.weights.flip(0), torch.stack(weights))


def test_an_update_is_seen_at_once():
    weights = in_buffer([0, 200])
    found = stacked(weights)
    assert found is not None
    weights[1].fill_(7.0)
    assert (found.weights[1] == 7).all()


def test_one_expert_is_a_stack_of_one():
    found = stacked(in_buffer([0]))
    assert found is not None
    assert found.weights.shape == (1, OUT, IN)


def test_what_lies_otherwise_is_no_stack():
    assert stacked(in_buffer([0, 200, 404])) is None, "distances differ"
    assert stacked([torch.zeros(OUT, IN), torch.zeros(OUT, IN)]) is None, "two storages"
    assert stacked(in_buffer([0, 202])) is None, "not aligned"
    assert stacked([weight.t() for weight in in_buffer([0, 200])]) is None, "not in rows"
