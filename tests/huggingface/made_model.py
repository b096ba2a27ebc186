"""A directory of Hugging Face made from a family's own table: for what can be wrong in one."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from megatron_r1.models.deepseek_v3 import DeepseekV3
from megatron_r1.models.qwen2 import Qwen2
from megatron_r1.models.shape import FamilyConfig

QWEN = Qwen2(
    family="qwen2",
    vocab_size=32,
    num_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=4,
    ffn_hidden_size=24,
)
V3 = DeepseekV3(
    family="deepseek_v3",
    vocab_size=32,
    num_layers=2,
    hidden_size=160,
    num_attention_heads=2,
    q_lora_rank=24,
    kv_lora_rank=136,
    qk_head_dim=8,
    qk_pos_emb_head_dim=4,
    v_head_dim=8,
    ffn_hidden_size=200,
    num_experts=4,
    experts_per_token=2,
    moe_ffn_hidden_size=130,
    mtp_layers=1,
)


def tensors(family: FamilyConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random tensors under Hugging Face's names."""
    generator = torch.Generator().manual_seed(seed)
    found = {
        name: torch.randn(weight.hf_shape(part), generator=generator).to(
            torch.float32 if weight.row.fp32 else dtype
        )
        for weight in family.weights()
        for part, name in enumerate(weight.hf)
    }
    return found | {copy.name: found[copy.of].clone() for copy in family.copies() if copy.exported}


def write(
    directory: Path,
    family: FamilyConfig = QWEN,
    *,
    values: dict[str, Tensor] | None = None,
    shards: int = 1,
    **config: Any,
) -> Path:
    """The directory; shards: how many files, with an index if there are several."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**family.to_hf(), **config}))
    values = tensors(family) if values is None else values
    if shards == 1:
        save_file(values, directory / "model.safetensors")
        return directory
    names, weight_map = list(values), {}
    for i in range(shards):
        file, mine = f"model-{i + 1:05d}-of-{shards:05d}.safetensors", names[i::shards]
        save_file({name: values[name] for name in mine}, directory / file)
        weight_map |= dict.fromkeys(mine, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory
