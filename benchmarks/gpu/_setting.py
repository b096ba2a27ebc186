"""The sizes that both benchmarks measure, and where their results go."""

import gc
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from megatron_r1.backend import parallel
from megatron_r1.backend.layout import Layout
from megatron_r1.backend.model import default_options
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.backend.precision import Precision
from megatron_r1.models.deepseek_v3 import DeepseekV3
from megatron_r1.models.qwen2 import Qwen2
from megatron_r1.models.shape import FamilyConfig

RESULTS = Path(__file__).parents[1] / "results"
EOS = 1

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
    # V3's layers with fewer and smaller parts: 1.1B weights, 0.3B of them a token's
    "moe_1b": DeepseekV3(
        family="deepseek_v3", vocab_size=32768, num_layers=12, hidden_size=1024, num_attention_heads=16,
        q_lora_rank=384, kv_lora_rank=256, qk_head_dim=128, qk_pos_emb_head_dim=64, v_head_dim=128,
        num_dense_layers=1, ffn_hidden_size=4096, num_experts=64, experts_per_token=6,
        moe_ffn_hidden_size=384, num_expert_groups=8, groups_per_token=3, init_std=0.02,
        max_position_embeddings=32768,
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


def policy(size: str, precision: Precision, *, tokens_per_pack: int) -> MegatronPolicy:
    """Of one rank, with random weights."""
    options = default_options(precision)
    return MegatronPolicy(SIZES[size], Layout(), options, seed=0, eos_id=EOS, tokens_per_pack=tokens_per_pack)


def start() -> None:
    """This process as the only rank."""
    only = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    os.environ.update({name: os.environ.get(name, value) for name, value in only.items()})
    parallel.start(Layout())


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"


def peak_flops(precision: str) -> float | None:
    """None for a device whose data sheet is not in PEAK."""
    return PEAK.get(device_name(), {}).get("fp8" if "fp8" in precision else precision)


def forget() -> None:
    """Free what the measurement before has left, and count memory anew."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def memory_gib() -> float:
    """The most that tensors held."""
    return torch.cuda.max_memory_allocated() / 2**30


def write(measurement: Measurement, name: str) -> None:
    """Append to benchmarks/results/NAME.jsonl, and say so."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(asdict(measurement)) + "\n")
    print(measurement)
