"""The sizes that the benchmarks measure, and where their results go."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from megatron_r1.backend import policy as policy_module
from megatron_r1.backend.memory import release
from megatron_r1.backend.model.build import default_options
from megatron_r1.backend.model.precision import Precision
from megatron_r1.backend.parallel import process_groups
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.config.layout import Layout
from megatron_r1.models.deepseek_v3 import DeepseekV3
from megatron_r1.models.qwen2 import Qwen2
from megatron_r1.models.shape import FamilyConfig

RESULTS = Path(__file__).parents[1] / "results"
EOS = 1
INIT_STD = 0.02

# Peak of dense matrix products in FLOP/s, by what torch calls the device: NVIDIA's H100 and H200 data sheets
# (without sparsity; both have the SXM5 chip).
PEAK = {
    "NVIDIA H100 80GB HBM3": {"bf16": 989e12, "fp8": 1979e12},
    "NVIDIA H200": {"bf16": 989e12, "fp8": 1979e12},
}

SIZES: dict[str, FamilyConfig] = {
    # Qwen2.5's published shapes
    "dense_0.5b": Qwen2(
        family="qwen2", vocab_size=151936, num_layers=24, hidden_size=896, num_attention_heads=14,
        num_query_groups=2, ffn_hidden_size=4864, tie_embeddings=True, max_position_embeddings=32768,
    ),
    "dense_1.5b": Qwen2(
        family="qwen2", vocab_size=151936, num_layers=28, hidden_size=1536, num_attention_heads=12,
        num_query_groups=2, ffn_hidden_size=8960, tie_embeddings=True, max_position_embeddings=32768,
    ),
    # V3's layers, narrower and fewer: 3.07B weights, of which a token meets .58B. GiB, of 78: weights
    # in bf16 5.7, fp32 gradients 11.4, masters and Adam's moments 34.3; logits of a pack of 8,192 tokens 2.5,
    # what it keeps for the backward pass 6.7 (without Transformer Engine 11.4): 61 to 66. FP8 adds two bytes
    # a weight, 5.7. tests/gpu/test_counts.py holds these to the plan.
    "v3_proxy": DeepseekV3(
        family="deepseek_v3", vocab_size=32768, num_layers=6, hidden_size=2048, num_attention_heads=16,
        q_lora_rank=768, kv_lora_rank=512, qk_head_dim=128, qk_pos_emb_head_dim=64, v_head_dim=128,
        num_dense_layers=1, ffn_hidden_size=8192, num_experts=64, experts_per_token=8,
        moe_ffn_hidden_size=1408, num_expert_groups=8, groups_per_token=4, init_std=0.02,
        max_position_embeddings=32768,
    ),
    # of the comparison of losses: 174M weights, all sizes multiples of FP8's blocks
    "v3_small": DeepseekV3(
        family="deepseek_v3", vocab_size=1024, num_layers=6, hidden_size=1024, num_attention_heads=8,
        q_lora_rank=512, kv_lora_rank=512, qk_head_dim=128, qk_pos_emb_head_dim=128, v_head_dim=128,
        num_dense_layers=1, ffn_hidden_size=4096, num_experts=16, experts_per_token=4,
        moe_ffn_hidden_size=512, num_expert_groups=4, groups_per_token=2, init_std=0.02,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row of a results file."""

    benchmark: str
    size: str
    precision: str
    tokens_per_s: float
    memory_gib: float
    mfu: float | None = None
    device: str = ""
    torch: str = torch.__version__


def policy(
    size: str, precision: Precision, *, tokens_per_pack: int, eos_id: int = EOS, seeded: bool = False
) -> MegatronPolicy:
    """Of one rank, with random weights. seeded: the seed's own, which are the same in every precision."""
    options = default_options(precision)
    draw = policy_module.set_initial_weights if seeded else _draw_weights
    with patch.object(policy_module, "set_initial_weights", draw):
        return MegatronPolicy(
            SIZES[size], Layout(), options, seed=0, eos_ids=(eos_id,), tokens_per_pack=tokens_per_pack
        )


def _draw_weights(chunks: Sequence[torch.nn.Module], **_: Any) -> None:
    """On the device, at once: the seed's own draws, one by one on the CPU, take a minute for billions."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in (pair for chunk in chunks for pair in chunk.named_parameters()):
            if name.endswith(".bias"):
                weight.zero_()
            elif weight.dim() > 1:  # norms are 1 already
                weight.normal_(std=INIT_STD)


def start() -> None:
    """This process as the only rank."""
    only = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    os.environ.update({name: os.environ.get(name, value) for name, value in only.items()})
    process_groups.start(Layout())


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"


def peak_flops(precision: str) -> float | None:
    """None for a device whose data sheet is not in PEAK."""
    return PEAK.get(device_name(), {}).get("fp8" if "fp8" in precision else precision)


def forget() -> None:
    """Free what the measurement before has left, and count memory anew."""
    release()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def memory_gib() -> float:
    """The most that tensors held; 0 on a CPU, where nobody counts."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def write(measurement: Measurement, name: str) -> None:
    append(asdict(measurement), f"{name}.jsonl")


def append(found: dict[str, Any], name: str) -> None:
    """Behind the rows of benchmarks/results/NAME, and say so."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(json.dumps(found), flush=True)
