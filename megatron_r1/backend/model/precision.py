"""Training precisions by name, and the hardware that each needs."""

import math
from typing import Any, Literal

import torch

from megatron_r1.config.layout import Layout
from megatron_r1.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp8_delayed", "fp8_current", "fp8_blockwise", "mxfp8"]

FP8_RECIPES = {
    "fp8_delayed": "delayed",  # scales from the history of maxima
    "fp8_current": "tensorwise",  # one scale a tensor, from the tensor itself
    "fp8_blockwise": "blockwise",  # DeepSeek-V3: activations 1x128, weights 128x128
    "mxfp8": "mxfp8",  # 1x32 with power-of-two scales
}
# the lowest compute capability of each: Ada, Hopper, Blackwell
CAPABILITIES = {"fp8_delayed": (8, 9), "fp8_current": (8, 9), "fp8_blockwise": (9, 0), "mxfp8": (10, 0)}


def parameter_dtype(precision: Precision) -> torch.dtype:
    """The dtype of the parameters; the optimizer keeps fp32 masters of anything narrower."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


def precision_options(precision: Precision) -> dict[str, Any]:
    """Arguments of TransformerConfig. Raises ConfigError where the machine can't compute the FP8 format."""
    dtype = parameter_dtype(precision)
    options: dict[str, Any] = {
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
    }
    if precision in FP8_RECIPES:
        _require_fp8(precision)
        # e4m3 for all three products, as V3 section 3.3; the older recipes keep e5m2 for gradients
        options["fp8"] = "e4m3" if precision == "fp8_blockwise" else "hybrid"
        options["fp8_recipe"] = FP8_RECIPES[precision]
    return options


def pack_multiple(layout: Layout, precision: Precision) -> int:
    """The number that a pack's token count must be divisible by.

    FP8 products need whole blocks, context parallelism two equal chunks a rank, and sequence parallelism
    equal parts of a context rank's tokens for the tensor ranks.
    """
    block = {"fp8_blockwise": 128, "mxfp8": 32, "fp8_delayed": 16, "fp8_current": 16}.get(precision, 8)
    if layout.context == 1:
        return math.lcm(block, layout.tensor)
    return layout.context * math.lcm(block, 2 * layout.tensor)


def transformer_engine_available() -> bool:
    """Whether the Transformer Engine modules can be built here."""
    from megatron.core.extensions.transformer_engine import HAVE_TE

    return HAVE_TE and torch.cuda.is_available()


def _require_fp8(precision: str) -> None:
    missing = []
    if not torch.cuda.is_available():
        missing.append("a CUDA device (none is visible)")
    elif (found := torch.cuda.get_device_capability()) < (least := CAPABILITIES[precision]):
        missing.append(
            f"a GPU of compute capability {least[0]}.{least[1]} or newer (this one: {found[0]}.{found[1]})"
        )
    if not transformer_engine_available():
        missing.append("Transformer Engine (pip install 'megatron-r1[gpu]')")
    if missing:
        raise ConfigError(f"precision: {precision} needs {' and '.join(missing)}; use bf16 or fp32 here")
