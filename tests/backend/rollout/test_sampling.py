"""Draws by hash and by inverse distribution, with numbers worked by hand."""

import math

import pytest
import torch

from megatron_r1.backend.rollout.sampling import next_tokens, nucleus, uniforms


def _splitmix64(value: int) -> int:
    """In Python's own integers; splitmix64's first output for seed 0 is 0xE220A8397B1DCDAF."""
    mask = (1 << 64) - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def test_uniforms_are_splitmix64_of_seed_key_and_position():
    assert _splitmix64(0) == 0xE220A8397B1DCDAF
    keys = [0, 1, 77, 2**63 - 1, 2**63, 2**64 - 1]
    expected = [_splitmix64(_splitmix64(_splitmix64(9) ^ key) ^ 5) / 2.0**64 for key in keys]
    assert uniforms(keys, position=5, seed=9).tolist() == expected


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.74, 1), (0.76, 3), (0.999, 3)]
)
def test_a_uniform_picks_the_token_where_the_sum_exceeds_it(uniform: float, token: int):
    logits = torch.tensor([[0.5, 0.25, 0.0, 0.25, 0.0]]).log()
    tokens, logprobs = next_tokens(logits, torch.tensor([uniform]), temperature=1.0, top_p=1.0)
    assert tokens.tolist() == [token]
    assert logprobs.item() == pytest.approx(math.log([0.5, 0.25, 0, 0.25][token]))


def test_the_largest_uniform_never_picks_an_impossible_token():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 300, generator=generator)
    logits[:, 250:] = -torch.inf
    below_one = torch.full((200,), 1 - 2.0**-53, dtype=torch.float64)
    tokens, logprobs = next_tokens(logits, below_one, temperature=1.0, top_p=1.0)
    assert tokens.max() < 250
    assert logprobs.isfinite().all()


def test_temperature_zero_takes_the_most_likely_token():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    tokens, logprobs = next_tokens(logits, torch.tensor([0.99]), temperature=0, top_p=1.0)
    assert tokens.tolist() == [1]
    assert logprobs.item() == pytest.approx(3 - math.log(math.e + math.e**3 + math.e**2))


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p():
    logprobs = torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log()
    assert nucleus(logprobs, 0.7).tolist() == [[False, True, True, False]]
    assert nucleus(logprobs, 0.4).tolist() == [[False, True, False, False]]
