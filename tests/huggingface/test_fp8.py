import math

import pytest
import torch

from megatron_r1.huggingface import fp8

SHAPES = [(576, 300), (130, 2100), (5, 7), (128, 256), (256, 128)]


def blocks(shape):
    for i in range(0, shape[0], 128):
        for j in range(0, shape[1], 128):
            yield i // 128, j // 128, slice(i, i + 128), slice(j, j + 128)


def weight(shape, dtype=torch.float32):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)


def same(a, b):
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_block_is_divided_by_its_largest_over_448(shape, dtype):
    values = weight(shape, dtype)
    codes, scales = fp8.quantize(values)
    assert scales.shape == fp8.scale_shape(shape)
    for i, j, rows, columns in blocks(shape):
        block = values[rows, columns].float()
        assert scales[i, j] == block.abs().max() / 448
        assert same(codes[rows, columns].contiguous(), (block / scales[i, j]).to(torch.float8_e4m3fn))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_code_is_multiplied_by_the_scale_of_its_block_and_rounded_once(shape, dtype):
    codes, scales = fp8.quantize(weight(shape))
    found = fp8.dequantize(codes, scales, dtype)
    assert found.dtype == dtype
    for i, j, rows, columns in blocks(shape):
        assert torch.equal(found[rows, columns], (codes[rows, columns].float() * scales[i, j]).to(dtype))


def test_all_256_codes_decode_as_torch_says():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).view(16, 16)
    found = fp8.dequantize(codes, torch.ones(1, 1), torch.float32)
    assert torch.equal(found.nan_to_num(nan=7e7), codes.float().nan_to_num(nan=7e7))
    finite = codes.view(torch.uint8) & 0x7F != 0x7F
    only = torch.where(finite, codes.view(torch.uint8), 0).view(
        torch.float8_e4m3fn
    )  # without NaN: the fast way
    assert torch.equal(fp8.dequantize(only, torch.ones(1, 1), torch.float32), only.float())


@pytest.mark.parametrize(("top", "left"), [(3, 2), (128, 256), (127, 129), (200, 0)])
def test_a_part_of_a_tensor_takes_the_scales_of_its_place(top, left):
    codes, scales = fp8.quantize(weight((576, 300)))
    whole = fp8.dequantize(codes, scales, torch.float32)
    part = fp8.dequantize(codes[top:, left:], scales, torch.float32, top=top, left=left)
    assert torch.equal(part, whole[top:, left:])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unchanged_weights_keep_codes_and_scales_bit_for_bit(shape, dtype):
    codes, scales = fp8.quantize(weight(shape))
    scales = scales * (1 + torch.rand_like(scales))  # not what our own quantising would choose
    again, kept = fp8.quantize(fp8.dequantize(codes, scales, dtype), scales)
    assert same(again, codes)
    assert torch.equal(kept, scales)


def test_a_block_that_changed_gets_a_new_scale_and_no_other():
    codes, scales = fp8.quantize(weight((300, 300)))
    scales = scales * 1.5
    values = fp8.dequantize(codes, scales, torch.bfloat16)
    values[140, 290] = 1.0
    again, found = fp8.quantize(values, scales)
    changed = found != scales
    assert changed.nonzero().tolist() == [[1, 2]]
    assert found[1, 2] == 1.0 / 448
    assert same(again[:128].contiguous(), codes[:128].contiguous())


def test_zeros_have_the_scale_one_and_come_back():
    codes, scales = fp8.quantize(torch.zeros(130, 130))
    assert torch.equal(scales, torch.ones(2, 2))
    assert torch.equal(fp8.dequantize(codes, scales, torch.bfloat16), torch.zeros(130, 130).bfloat16())


def test_the_error_of_normal_weights_is_the_one_of_the_format():
    values = weight((576, 2048))
    found = fp8.dequantize(*fp8.quantize(values), torch.float32)
    assert float((found - values).norm() / values.norm()) == pytest.approx(0.0265, abs=5e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_powers_of_two_are_the_smallest_that_hold_the_block(shape):
    values = weight(shape)
    _, plain = fp8.quantize(values)
    codes, scales = fp8.quantize(values, powers_of_two=True)
    assert torch.equal(scales.log2(), scales.log2().round())
    assert (scales >= plain).all()
    assert (scales < 2 * plain).all()
    assert not codes.float().isnan().any()
    assert same(fp8.quantize(values, scales, powers_of_two=True)[0], codes)


def test_a_scale_that_is_a_power_of_two_already_is_itself():
    values = torch.full((128, 128), 448.0) * 2.0**-9
    assert fp8.quantize(values, powers_of_two=True)[1].item() == 2.0**-9
    assert fp8.quantize(torch.zeros(3, 3), powers_of_two=True)[1].item() == 1.0


def test_of_old_scales_only_powers_of_two_are_kept_where_the_configuration_says_so():
    codes, scales = fp8.quantize(weight((128, 256)))
    scales[0, 1] = 2.0**-12
    values = fp8.dequantize(codes, scales, torch.float32)
    assert torch.equal(fp8.quantize(values, scales)[1], scales)
    found = fp8.quantize(values, scales, powers_of_two=True)[1]
    assert found[0, 1] == scales[0, 1]
    assert found[0, 0] == 2.0 ** math.ceil(math.log2(scales[0, 0]))
