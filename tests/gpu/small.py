"""Small models whose sizes FP8 can take (multiples of 128), with fixed data and steps."""

from typing import Any

import torch
from torch import Tensor

from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.config.layout import Layout
from megatron_r1.models.deepseek_v3 import DeepseekV3
from megatron_r1.models.qwen2 import Qwen2
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.types import OptimizerOptions, PackedBatch, Sampled, Sampling, TrainSequence

VOCABULARY, EOS, LENGTH = 512, 1, 128
STEPS = 4

FAMILIES: dict[str, FamilyConfig] = {
    "v3": DeepseekV3(
        family="deepseek_v3",
        vocab_size=VOCABULARY,
        num_layers=2,
        hidden_size=256,
        num_attention_heads=2,
        q_lora_rank=128,
        kv_lora_rank=128,
        qk_head_dim=128,
        qk_pos_emb_head_dim=128,
        v_head_dim=128,
        num_dense_layers=1,
        ffn_hidden_size=512,
        num_experts=8,
        experts_per_token=2,
        moe_ffn_hidden_size=128,
        num_expert_groups=4,
        groups_per_token=2,
        init_std=0.02,
    ),
    "qwen2": Qwen2(
        family="qwen2",
        vocab_size=VOCABULARY,
        num_layers=2,
        hidden_size=256,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=512,
    ),
}


def policy(
    family: str, layout: Layout | None = None, *, mtp_layers: int = 0, **options: Any
) -> MegatronPolicy:
    """The same weights each time. options: of ModelOptions."""
    config = FAMILIES[family]
    if mtp_layers:
        config = config.model_copy(update={"mtp_layers": mtp_layers})
    return MegatronPolicy(
        config, layout or Layout(), ModelOptions(**options), seed=3, eos_ids=(EOS,), tokens_per_pack=512
    )


def sequences(step: int) -> list[TrainSequence]:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, VOCABULARY, (4, LENGTH + 1), generator=generator)
    return [TrainSequence(row, torch.full((LENGTH + 1,), 1 / (4 * LENGTH))) for row in tokens]


def losses(policy: MegatronPolicy) -> list[float]:
    """Of some updates on the same few sequences, so that there is something to learn."""
    policy.start_training(OptimizerOptions())
    return [policy.train_step(sequences(0), cross_entropy, lr=1e-3).loss for _ in range(STEPS)]


def cross_entropy(logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch) -> Any:
    return -logprobs, {}


def rollout(policy: MegatronPolicy) -> tuple[list[TrainSequence], list[Sampled]]:
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [20, 21]]
    outputs = policy.generate(prompts, Sampling(24, seed=2), keys=[0, 1, 2, 3])
    found = [
        TrainSequence(
            torch.tensor(prompt + output.token_ids),
            torch.cat([torch.zeros(len(prompt)), torch.ones(len(output.token_ids))]),
        )
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    return found, outputs
