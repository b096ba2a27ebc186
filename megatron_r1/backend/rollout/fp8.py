"""FP8 rollouts: which weights are rounded, and what model, layout and GPU they need.

Rounded are the attention projections, MLPs and experts. Not rounded are the embedding, the lm_head, the
router, norms and biases, attention scores and caches, MLA's absorbed up-projections and MTP's projection;
most FP8 rollouts leave these too (DeepSeek-V3, 2412.19437, section 3.3; FP8-RL, 2601.18150). The products:
backend/rollout/decoder/linear.py.
"""

import re
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from megatron_r1.config.layout import Layout
from megatron_r1.errors import ConfigError
from megatron_r1.models.shape import FamilyConfig

RolloutPrecision = Literal["fp8"]

KEY = "rollout.precision: fp8"
MULTIPLE = 16  # elements: torch's scaled products require it of both sides of a matrix
SCALE_BYTES = 4  # for each output row
CAPABILITY = (8, 9)
_ROUNDED = re.compile(r"\.linear_(qkv|proj|q_proj|q_down_proj|q_up_proj|kv_down_proj|fc1|fc2)\.weight\d*$")


def rounded_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of a GPTModel that are rounded; those under `mtp.` are used only by speculation."""
    for name, weight in model.named_parameters():
        if name.startswith(("decoder.", "mtp.layers.0.")) and _ROUNDED.search(name):
            yield name, weight


def fp8_bytes(weight: Tensor) -> int:
    return weight.numel() + SCALE_BYTES * weight.shape[0]


def problems(family: FamilyConfig, layout: Layout) -> list[str]:
    """Why this model can't be sampled from in FP8 in this layout."""
    return [
        f"{KEY}: {what} = {width} is no multiple of {MULTIPLE}, as FP8 products need; change it"
        for what, width in _widths(family, layout).items()
        if width % MULTIPLE
    ]


def missing() -> list[str]:
    """Why this machine's GPU can't compute FP8. CPUs can, slowly, with the same rounding."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() >= CAPABILITY:
        return []
    return [
        f"{KEY}: it needs a GPU of compute capability 8.9 or newer (this one: "
        f"{torch.cuda.get_device_capability()}); leave it out"
    ]


def require_fit(weight: Tensor) -> None:
    """Raises ConfigError for a matrix whose sides torch's scaled products refuse."""
    if any(size % MULTIPLE for size in weight.shape):
        raise ConfigError(
            f"{KEY}: a rank's weight of {' x '.join(map(str, weight.shape))} has a side that is no multiple "
            f"of {MULTIPLE}, as FP8 products need; lower layout.tensor, change the model, or leave it out"
        )


def _widths(family: FamilyConfig, layout: Layout) -> dict[str, int]:
    """Sides of this rank's matrices, by the setting that decides them."""
    config, shape = family.transformer_config(), family.shape()
    found = {"hidden_size": config["hidden_size"]}
    if not shape.num_experts or shape.num_dense_layers:
        found["ffn_hidden_size / tensor"] = config["ffn_hidden_size"] // layout.tensor
    if shape.num_experts:
        found["moe_ffn_hidden_size / expert_tensor"] = config["moe_ffn_hidden_size"] // layout.expert_tensor
    if config.get("moe_shared_expert_intermediate_size"):
        shared = config["moe_shared_expert_intermediate_size"] // layout.tensor
        found["the shared experts' width / tensor"] = shared
    heads = config["num_attention_heads"] // layout.tensor
    if not config.get("multi_latent_attention"):
        width, groups = config["kv_channels"], max(1, config["num_query_groups"] // layout.tensor)
        found["the heads' width / tensor"] = heads * width
        found["the width of queries, keys and values / tensor"] = (heads + 2 * groups) * width
        return found
    rotated = config["qk_pos_emb_head_dim"]
    found["kv_lora_rank + qk_pos_emb_head_dim"] = config["kv_lora_rank"] + rotated
    if config.get("q_lora_rank") is not None:
        found["q_lora_rank"] = config["q_lora_rank"]
    found["the width of queries / tensor"] = heads * (config["qk_head_dim"] + rotated)
    found["the width of values / tensor"] = heads * config["v_head_dim"]
    return found
