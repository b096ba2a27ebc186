"""The tiny models and data of the scenarios, the same on every rank and in every layout."""

from typing import Any

import torch

from megatron_r1 import registry
from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.config.layout import Layout
from megatron_r1.models.deepseek_v3 import DeepseekV3, Yarn
from megatron_r1.models.llama import Llama
from megatron_r1.models.qwen2 import Qwen2
from megatron_r1.models.qwen3 import Qwen3
from megatron_r1.models.qwen3_moe import Qwen3Moe
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.types import OptimizerOptions, TrainSequence

VOCABULARY = 64
EOS = 1
LENGTH = 64  # inputs of a training sequence, and tokens of a pack
BATCH = 4  # sequences of a step, over all replicas
# Adam's first steps are sign-like: at 1e-8 they magnify the rounding of tiny gradients
OPTIMIZER = OptimizerOptions(epsilon=1e-4)

V3: dict[str, Any] = {
    "family": "deepseek_v3",
    "vocab_size": VOCABULARY,
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_head_dim": 16,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": 16,
    "num_dense_layers": 1,
    "ffn_hidden_size": 128,
    "num_experts": 8,
    "experts_per_token": 2,
    "moe_ffn_hidden_size": 32,
    "num_expert_groups": 4,
    "groups_per_token": 2,
    "router_bias_update_rate": 1e-2,
    "sequence_aux_loss": 1e-2,
    "mtp_layers": 1,
    "yarn": Yarn(factor=4.0, original_max_position_embeddings=32),
    "init_std": 0.06,
}

DENSE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "ffn_hidden_size": 128,
    "init_std": 0.06,
}
LLAMA3 = {
    "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip

FAMILIES: dict[str, FamilyConfig] = {
    "v3": DeepseekV3(**V3),
    "v3_two_depths": DeepseekV3(**{**V3, "mtp_layers": 2}),
    "v3_plain": DeepseekV3(**{**V3, "q_lora_rank": None, "yarn": None, "mtp_layers": 0}),
    "v3_wider": DeepseekV3(**{**V3, "moe_ffn_hidden_size": 64, "mtp_layers": 0}),
    "qwen2": Qwen2(family="qwen2", **DENSE, tie_embeddings=True),
    "qwen3_moe": Qwen3Moe(
        family="qwen3_moe",
        vocab_size=VOCABULARY,
        num_layers=3,
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        head_dim=16,
        num_experts=8,
        experts_per_token=2,
        moe_ffn_hidden_size=32,
        init_std=0.1,
    ),
    "qwen3": Qwen3(family="qwen3", **{**DENSE, "head_dim": 24}),
    "llama": Llama(family="llama", **DENSE, rope_scaling=LLAMA3),
}
# a plug-in: RoPE turns half of each head, a sigmoid router over grouped-query attention
FAMILIES["glm4_moe"] = registry.families()["glm4_moe"].config.model_validate(
    {
        "family": "glm4_moe",
        **{**DENSE, "head_dim": 16},
        "num_experts": 8,
        "experts_per_token": 2,
        "moe_ffn_hidden_size": 32,
    }
)
# with a balance loss that shows in the curve, and layers enough for every pipeline
FAMILIES["qwen3_moe_trained"] = FAMILIES["qwen3_moe"].model_copy(update={"num_layers": 4, "aux_loss": 1e-2})


def policy(
    family: str,
    layout: Layout,
    *,
    seed: int = 0,
    precision: str = "fp32",
    recompute: str = "none",
    vocabulary: int | None = None,
    offload: tuple[str, ...] = (),
    **computing: Any,
) -> MegatronPolicy:
    """vocabulary: another number of tokens than the data's. computing: more of ModelOptions."""
    options = ModelOptions(precision=precision, recompute=recompute, **computing)  # type: ignore[arg-type]
    config = FAMILIES[family].model_copy(update={} if vocabulary is None else {"vocab_size": vocabulary})
    return MegatronPolicy(
        config, layout, options, seed=seed, eos_ids=(EOS,), tokens_per_pack=LENGTH, offload=offload
    )


def batch(step: int) -> list[TrainSequence]:
    """The global batch of a step; the weights carry the mean."""
    generator = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1), generator=generator)
    weights = torch.rand(BATCH, LENGTH + 1, generator=generator) / (BATCH * LENGTH)
    return [TrainSequence(row, weight) for row, weight in zip(tokens, weights, strict=True)]


def uneven_sequences() -> list[TrainSequence]:
    generator = torch.Generator().manual_seed(5)
    lengths = (3, 17, 42, 8, 61, 30, 2)
    rows = [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in lengths]
    return [TrainSequence(row, torch.ones(len(row))) for row in rows]
