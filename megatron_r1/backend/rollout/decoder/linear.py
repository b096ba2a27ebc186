"""Linear layers of the built-in decoder: the weights as they are stored, or rounded to FP8.

FP8 (e4m3) weights are rounded when a decoder is built, once a rollout, so they can't be stale. Scales are per
output channel for weights and dynamic per token for activations (W8A8), so a completion doesn't depend on
what shares its batch. Sums are in fp32, without Hopper's fast accumulation, which keeps 14 bits (DeepSeek-V3,
2412.19437, section 3.3.2); results are bf16, as torch's kernels return them, on the CPU too.

Where tensor ranks hold columns of a weight, each rank scales its part of a row and of a token: results are
close to those on one rank, but not bit-identical.

DeepSeek's blocks (1 x 128 of a token, 128 x 128 of a weight) contain an outlier better than rows do, but
torch has no grouped product with block scales for experts. It has one with row scales.
"""

# T tokens, k experts a token, E experts

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from torch import Tensor
from torch.nn.functional import ScalingType

from megatron_r1.backend.rollout.decoder.expert_weights import Stack, stacked
from megatron_r1.backend.rollout.fp8 import RolloutPrecision, require_fit

Product = Callable[[Tensor], Tensor]  # x [T, in] -> x W' [T, out]
Addition = Callable[[Tensor, Tensor], Tensor]  # (stream [T, out], x [T, in]) -> stream + x W'
# (tokens [T * k, in] sorted by expert, their bounds: see ExpertProducts) -> each times its expert's weight
GroupedProduct = Callable[[Tensor, Any], Tensor]

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # a row of zeros must not divide by 0
BY_ROW = ScalingType.RowWise
GROUPS_IN_FP8 = (9, 0)  # torch's grouped FP8 product supports only this compute capability


def product(weight: Tensor, precision: RolloutPrecision | None, bias: Tensor | None = None) -> Product:
    if precision is None:
        return partial(F.linear, weight=weight, bias=bias)
    return Fp8Product(weight, bias)


def addition(weight: Tensor, precision: RolloutPrecision | None) -> Addition:
    """Row-parallel linear layer: its sum over the tensor ranks, added to the residual stream."""
    alone = parallel_state.get_tensor_model_parallel_world_size() == 1
    if alone and precision is None:
        return partial(torch.addmm, mat2=weight.t())
    times = product(weight, precision)
    if alone:
        return lambda stream, x: stream + times(x)
    return lambda stream, x: stream + reduce_from_tensor_model_parallel_region(times(x))


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """[.., in] -> FP8 values of the same shape and fp32 scales [.., 1], with x ~ values * scales."""
    scales = torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True, dtype=torch.float32)
    scales = scales.div_(LARGEST).clamp_(min=SMALLEST_SCALE)
    return (x / scales).to(FP8).contiguous(), scales


class Fp8Product:
    """x W' in FP8, plus the unrounded bias."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        require_fit(weight)
        values, scales = rounded(weight.detach())
        # [in, out], column-major as the kernel requires, and [1, out]
        self.values, self.scales = values.t(), scales.t()
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        values, scales = rounded(x)
        out = F.scaled_mm(values, self.values, scales, BY_ROW, self.scales, BY_ROW).to(x.dtype)
        return out if self.bias is None else out + self.bias


class GroupedFp8:
    """All experts of a layer in one grouped FP8 product. Groups may have any number of tokens, 0 too."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        require_fit(weights[0])
        shape = (len(weights), *weights[0].shape)
        values = torch.empty(shape, dtype=FP8, device=weights[0].device)
        self.scales = torch.empty(shape[:2], device=weights[0].device)  # [E, out]
        for i, weight in enumerate(weights):  # one at a time: the fp32 copies of all would not fit
            values[i], scales = rounded(weight.detach())
            self.scales[i] = scales[:, 0]
        self.values = values.mT  # [E, in, out]

    def __call__(self, tokens: Tensor, ends: Tensor) -> Tensor:
        values, scales = rounded(tokens)
        out = F.scaled_grouped_mm(  # pyright: ignore[reportAttributeAccessIssue]  # torch's stub lacks it
            values, self.values, scales[:, 0], BY_ROW, self.scales, BY_ROW, offs=ends
        )
        return out.to(tokens.dtype)


@dataclass(frozen=True, slots=True)
class ExpertProducts:
    """Both linear layers of the experts on this rank.

    grouped: one product for all experts; its bounds are the cumulative token counts, [E] int32. Otherwise one
    product an expert; the bounds are the list of token counts. reversed: the last expert comes first.
    """

    up: GroupedProduct
    down: GroupedProduct
    grouped: bool
    reversed: bool


def expert_products(
    ups: Sequence[Tensor], downs: Sequence[Tensor], precision: RolloutPrecision | None
) -> ExpertProducts:
    if precision is None:
        up, down = stacked(ups), stacked(downs)
        if up is not None and down is not None and up.reversed == down.reversed:
            return ExpertProducts(_of_stack(up), _of_stack(down), grouped=True, reversed=up.reversed)
    elif ups[0].is_cuda and torch.cuda.get_device_capability(ups[0].device) == GROUPS_IN_FP8:
        return ExpertProducts(GroupedFp8(ups), GroupedFp8(downs), grouped=True, reversed=False)
    each = [[product(weight, precision) for weight in weights] for weights in (ups, downs)]
    up, down = (partial(_by_expert, products=products) for products in each)
    return ExpertProducts(up, down, grouped=False, reversed=False)


def _of_stack(stack: Stack) -> GroupedProduct:
    weights = stack.weights.mT  # [E, in, out]
    return lambda tokens, ends: F.grouped_mm(tokens, weights, offs=ends)


def _by_expert(tokens: Tensor, counts: list[int], *, products: Sequence[Product]) -> Tensor:
    parts = zip(tokens.split(counts), products, strict=True)
    return torch.cat([times(part) for part, times in parts if len(part)])
