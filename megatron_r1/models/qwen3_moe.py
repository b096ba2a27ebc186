"""Qwen3 with experts (arXiv 2505.09388): Qwen3's attention, a softmax router, experts in every layer.

The load-balancing loss is per sequence, as DeepSeek-V3's. Megatron's "aux_loss" is per pack: it would depend
on which sequences share a pack and on the layout, and a pack of only padding would make it nan. Qwen3's own,
over the global batch, would need all expert counts of an update before the first backward pass.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from megatron_r1.models.dense import DenseConfig, L, M, feed_forward_rows
from megatron_r1.models.hf_config import HfConfig
from megatron_r1.models.shape import Experts, ModelShape, NonNegative, Positive, Width, expert_problems
from megatron_r1.models.weights import Row


class Qwen3Moe(DenseConfig):
    """The shape of a Qwen3 model with experts."""

    qk_norm: ClassVar[bool] = True
    hf_architecture: ClassVar[str | None] = "Qwen3MoeForCausalLM"
    hf_model_type: ClassVar[str] = "qwen3_moe"
    hf_training_only: ClassVar[tuple[str, ...]] = (
        *DenseConfig.hf_training_only,
        "aux_loss",
        "ffn_hidden_size",
    )
    family: Literal["qwen3_moe"]
    rope_theta: Positive = 1e6
    """Base of the rotary frequencies."""
    ffn_hidden_size: int = Field(default=0, ge=0, le=1 << 20)
    """Unused: every layer has experts."""
    num_experts: Experts
    """Experts per layer."""
    experts_per_token: Experts
    """Experts per token."""
    moe_ffn_hidden_size: Width
    """Inner width of one expert."""
    normalize_expert_weights: bool = True
    """Whether the weights of a token's experts add up to 1."""
    aux_loss: NonNegative = 1e-3
    """Weight of the sequence-wise balance loss (DeepSeek-V3, eq. 17-20). Even load gives 1 per layer, where
    transformers' formula gives experts_per_token. Qwen3's is over the global batch (2501.11873)."""

    def _network_problems(self) -> list[str]:
        found = expert_problems(num_experts=self.num_experts, experts_per_token=self.experts_per_token)
        if self.experts_per_token == 1 and self.normalize_expert_weights:
            found.append(
                "normalize_expert_weights: true with experts_per_token=1 makes every weight 1, so the router "
                "learns nothing; set it to false"
            )
        return found

    def shape(self) -> ModelShape:
        return ModelShape(
            num_layers=self.num_layers,
            num_attention_heads=self.num_attention_heads,
            num_query_groups=self.num_query_groups,
            vocab_size=self.vocab_size,
            num_experts=self.num_experts,
            moe_ffn_hidden_size=self.moe_ffn_hidden_size,
        )

    def transformer_config(self) -> dict[str, Any]:
        return {
            **super().transformer_config(),
            "ffn_hidden_size": self.moe_ffn_hidden_size,
            "num_moe_experts": self.num_experts,
            "moe_layer_freq": [1] * self.num_layers,
            "moe_ffn_hidden_size": self.moe_ffn_hidden_size,
            "moe_router_topk": self.experts_per_token,
            "moe_router_score_function": "softmax",
            # a softmax over the chosen experts equals the full softmax, normalised over them
            "moe_router_pre_softmax": not self.normalize_expert_weights,
            "moe_router_dtype": "fp32",
            "moe_router_load_balancing_type": "seq_aux_loss" if self.aux_loss else "none",
            "moe_aux_loss_coeff": self.aux_loss,
            **self.megatron,
        }

    @classmethod
    def _network(cls, config: HfConfig) -> dict[str, Any]:
        config.require("decoder_sparse_step", 1, why="layers without experts")
        config.require("mlp_only_layers", [], why="layers without experts")
        experts = config.size("num_local_experts" if "num_local_experts" in config.values else "num_experts")
        topk = config.size("num_experts_per_tok")
        if topk > experts:
            config.refuse(f"num_experts_per_tok={topk} of {experts} experts")
        return {
            "ffn_hidden_size": config.integer("intermediate_size", 0),
            "num_experts": experts,
            "experts_per_token": topk,
            "moe_ffn_hidden_size": config.size("moe_intermediate_size"),
            "normalize_expert_weights": config.flag("norm_topk_prob", default=False),
            "aux_loss": config.number("router_aux_loss_coef", 1e-3),
        }

    def _network_to_hf(self) -> dict[str, Any]:
        return {
            "intermediate_size": self.ffn_hidden_size or self.moe_ffn_hidden_size,
            "num_experts": self.num_experts,
            "num_experts_per_tok": self.experts_per_token,
            "moe_intermediate_size": self.moe_ffn_hidden_size,
            "norm_topk_prob": self.normalize_expert_weights,
            "router_aux_loss_coef": self.aux_loss,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }

    def _network_rows(self) -> list[Row]:
        layers, h = range(self.num_layers), self.hidden_size
        norm = "mlp.linear_fc1.layer_norm_weight"
        return [
            Row(megatron=f"{M}{norm}", hf=(f"{L}post_attention_layernorm.weight",), shape=(h,), layers=layers,
                engine=(norm, "pre_mlp_layernorm.weight")),
            Row(megatron=f"{M}mlp.router.weight", hf=(f"{L}mlp.gate.weight",), shape=(self.num_experts, h),
                layers=layers),
            *feed_forward_rows(f"{M}mlp.experts.{{expert}}.", f"{L}mlp.experts.{{expert}}.", hidden=h,
                               inner=self.moe_ffn_hidden_size, layers=layers, experts=self.num_experts),
        ]  # fmt: skip


FAMILY = Qwen3Moe
