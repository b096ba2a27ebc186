"""Products in FP8 next to the same numbers rounded by hand, in float64."""

import math

import pytest
import torch
from torch import Tensor

from megatron_r1.backend.rollout.decoder.linear import expert_products, product, rounded
from megatron_r1.errors import ConfigError

BF16 = 2**-8  # relative, of a result
LARGEST = 448.0  # of e4m3: 1.75 x 2^8


def e4m3(value: float) -> float:
    """The nearest of e4m3's numbers, of two as near the even one: 3 bits of mantissa, exponents from -6."""
    if value == 0:
        return 0.0
    step = 2.0 ** (max(math.floor(math.log2(abs(value))), -6) - 3)
    return round(value / step) * step  # Python's round is to even


def by_hand(x: Tensor) -> Tensor:
    """x [rows, columns] as FP8 keeps it, a scale a row, in float64; scales in fp32, or ties would differ."""
    found = []
    for row in x.float():
        scale = row.abs().max() / LARGEST if row.any() else torch.tensor(1.0)
        found.append([e4m3(value) * float(scale) for value in (row / scale).tolist()])
    return torch.tensor(found, dtype=torch.float64)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Rows of very different sizes, and one of zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator) * 10 ** torch.linspace(-3, 3, shape[-2])[:, None]
    x[..., 1, :] = 0
    return x


def test_a_row_is_rounded_as_by_hand():
    x = numbers(8, 32)
    values, scales = rounded(x)
    got = values.double() * scales
    assert torch.allclose(got, by_hand(x), rtol=1e-6, atol=0)
    assert (got[1] == 0).all(), "a row of zeros"
    largest = x.abs().amax(1, keepdim=True)
    assert ((got - x).abs() <= largest / 28 + 1e-30).all(), "half of the step of 32 below 448"


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30, 3e38])
def test_no_row_is_too_small_or_too_large(size: float):
    x = numbers(4, 16)
    x = x / x.abs().max() * size
    values, scales = rounded(x)
    assert (values.double() * scales).isfinite().all()
    assert (values.float().abs() <= LARGEST).all()


def test_what_is_not_a_number_is_not_hidden():
    x = numbers(4, 16)
    x[2, 3] = torch.nan
    x[3, 5] = torch.inf
    out = product(numbers(16, 16, seed=1), "fp8")(x)
    assert out[:2].isfinite().all()
    assert out[2:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [2, 7, 33])
def test_a_product_is_that_of_the_rounded_numbers(rows: int, dtype: torch.dtype):
    x, weight = numbers(rows, 64).to(dtype), numbers(48, 64, seed=1).to(dtype)
    bias = torch.ones(48, dtype=dtype)
    expected = by_hand(x) @ by_hand(weight).T
    got = product(weight, "fp8")(x)
    assert got.dtype == dtype
    assert close(got, expected)
    with_bias = product(weight, "fp8", bias)(x)
    assert torch.equal(with_bias, got + bias)
    assert not close(torch.nn.functional.linear(x, weight), expected), "the tolerance sees that it is rounded"


def close(got: Tensor, expected: Tensor) -> bool:
    """A row may cancel: what its largest result is in fp32 is all that can be asked of a small one."""
    slack = BF16 * expected.abs() + 1e-5 * expected.abs().amax(1, keepdim=True)
    return bool(((got.double() - expected).abs() <= slack).all())


def test_experts_are_products_of_their_own_and_some_have_no_tokens():
    ups = [numbers(64, 32, seed=i) for i in range(4)]
    downs = [numbers(32, 32, seed=10 + i) for i in range(4)]
    counts = [3, 0, 1, 2]
    tokens = numbers(6, 32)
    products = expert_products(ups, downs, "fp8")
    assert not products.grouped, "torch has no grouped product of FP8 for a CPU"
    for times, weights in ((products.up, ups), (products.down, downs)):
        parts = zip(tokens.split(counts), weights, strict=True)
        expected = torch.cat([by_hand(part) @ by_hand(weight).T for part, weight in parts if len(part)])
        assert close(times(tokens, counts), expected)


def test_a_weight_is_as_it_was_when_the_product_was_made():
    x, weight = numbers(3, 16), numbers(16, 16, seed=1)
    times = product(weight, "fp8")
    before = times(x)
    weight.zero_()
    assert torch.equal(times(x), before)
    assert (product(weight, "fp8")(x) == 0).all()


def test_a_weight_that_does_not_fit_is_refused():
    for shape in ((24, 32), (32, 24)):
        with pytest.raises(ConfigError, match=f"^rollout.precision: fp8: a rank's weight of {shape[0]} x"):
            product(torch.zeros(shape), "fp8")
