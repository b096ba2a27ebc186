"""A model family of another shape in one file: GLM-4.5 (arXiv 2508.06471), without its MTP layer.

Grouped-query attention of which RoPE turns the first half of each head, DeepSeek-V3's sigmoid router with
bias and a shared expert, dense layers first. DenseConfig gives the attention and the outer rows; what
differs is here: `rope`, `shape`, `transformer_config`, the table of weights, and config.json in both
directions.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from megatron_r1.models.dense import DenseConfig, L, M, feed_forward_rows
from megatron_r1.models.hf_config import HfConfig
from megatron_r1.models.shape import (
    Experts,
    ModelShape,
    NonNegative,
    Positive,
    Rope,
    Width,
    expert_problems,
)
from megatron_r1.models.weights import Row


class Glm4Moe(DenseConfig):
    """The shape of a GLM-4.5 model, with the values of GLM-4.5-Air."""

    qk_norm: ClassVar[bool] = False
    qkv_bias: ClassVar[bool] = True
    hf_architecture: ClassVar[str | None] = "Glm4MoeForCausalLM"
    hf_model_type: ClassVar[str] = "glm4_moe"
    hf_partial_rotary: ClassVar[bool] = True
    hf_training_only: ClassVar[tuple[str, ...]] = (
        *DenseConfig.hf_training_only, "router_bias_update_rate", "sequence_aux_loss",
    )  # fmt: skip
    family: Literal["glm4_moe"]
    rotated_share: float = Field(default=0.5, gt=0, le=1)
    """Share of a head's channels that RoPE turns."""
    norm_epsilon: Positive = 1e-5
    """Of every RMSNorm."""
    num_dense_layers: int = Field(default=1, ge=0)
    """Layers without experts, which come first."""
    num_experts: Experts
    """Routed experts per layer. 128."""
    experts_per_token: Experts
    """Experts per token. 8."""
    num_shared_experts: int = Field(default=1, ge=1)
    """Shared experts, which process every token."""
    moe_ffn_hidden_size: Width
    """Inner width of one expert. 1408."""
    router_scaling_factor: Positive = 1.0
    """Factor on the routed experts' weights."""
    router_bias_update_rate: NonNegative = 1e-3
    """Update rate of the bias that balances the load without a loss."""
    sequence_aux_loss: NonNegative = 1e-4
    """Weight of the sequence-wise balance loss."""

    def rope(self) -> Rope:
        return Rope(self.rope_theta, share=self.rotated_share)

    def _network_problems(self) -> list[str]:
        return expert_problems(num_experts=self.num_experts, experts_per_token=self.experts_per_token)

    def shape(self) -> ModelShape:
        return ModelShape(
            num_layers=self.num_layers,
            num_attention_heads=self.num_attention_heads,
            num_query_groups=self.num_query_groups,
            vocab_size=self.vocab_size,
            ffn_hidden_size=self.ffn_hidden_size,
            num_experts=self.num_experts,
            moe_ffn_hidden_size=self.moe_ffn_hidden_size,
            num_dense_layers=self.num_dense_layers,
            cut_by_tensor={"num_shared_experts x moe_ffn_hidden_size": self._shared_width},
        )

    @property
    def _shared_width(self) -> int:
        return self.num_shared_experts * self.moe_ffn_hidden_size

    def transformer_config(self) -> dict[str, Any]:
        moe_layers = self.num_layers - self.num_dense_layers
        return {
            **super().transformer_config(),
            "num_moe_experts": self.num_experts,
            "moe_layer_freq": [0] * self.num_dense_layers + [1] * moe_layers,
            "moe_ffn_hidden_size": self.moe_ffn_hidden_size,
            "moe_shared_expert_intermediate_size": self._shared_width,
            "moe_router_topk": self.experts_per_token,
            "moe_router_score_function": "sigmoid",
            "moe_router_dtype": "fp32",
            "moe_router_topk_scaling_factor": self.router_scaling_factor,
            "moe_router_enable_expert_bias": True,
            "moe_router_bias_update_rate": self.router_bias_update_rate,
            "moe_router_load_balancing_type": "seq_aux_loss" if self.sequence_aux_loss else "none",
            "moe_aux_loss_coeff": self.sequence_aux_loss,
            **self.megatron,
        }

    @classmethod
    def _network(cls, config: HfConfig) -> dict[str, Any]:
        config.require("n_group", 1, why="groups of experts")
        config.require("norm_topk_prob", True, why="Megatron's sigmoid router normalises")
        config.require("use_qk_norm", cls.qk_norm, why="norms on the heads, which another family would say")
        config.require("num_nextn_predict_layers", 0, why="its MTP layer has no rows here")
        return {
            "ffn_hidden_size": config.size("intermediate_size"),
            "rotated_share": config.rotated_share(0.5),
            "num_dense_layers": config.integer("first_k_dense_replace", 1),
            "num_experts": config.size("n_routed_experts"),
            "experts_per_token": config.size("num_experts_per_tok"),
            "num_shared_experts": config.size("n_shared_experts"),
            "moe_ffn_hidden_size": config.size("moe_intermediate_size"),
            "router_scaling_factor": config.positive("routed_scaling_factor", 1.0),
        }

    def _network_to_hf(self) -> dict[str, Any]:
        return {
            "attention_bias": self.qkv_bias,
            "use_qk_norm": self.qk_norm,
            "partial_rotary_factor": self.rotated_share,
            "intermediate_size": self.ffn_hidden_size,
            "first_k_dense_replace": self.num_dense_layers,
            "n_routed_experts": self.num_experts,
            "num_experts_per_tok": self.experts_per_token,
            "n_shared_experts": self.num_shared_experts,
            "moe_intermediate_size": self.moe_ffn_hidden_size,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": self.router_scaling_factor,
            "num_nextn_predict_layers": 0,
        }

    def _network_rows(self) -> list[Row]:
        h, inner, n = self.hidden_size, self.moe_ffn_hidden_size, self.num_experts
        dense, experts = range(self.num_dense_layers), range(self.num_dense_layers, self.num_layers)
        ours, norm = "mlp.linear_fc1.layer_norm_weight", (f"{L}post_attention_layernorm.weight",)
        rows = [
            Row(megatron=f"{M}{ours}", hf=norm, shape=(h,), layers=dense),
            *feed_forward_rows(f"{M}mlp.", f"{L}mlp.", hidden=h, inner=self.ffn_hidden_size, layers=dense),
        ]  # fmt: skip
        return [
            *(row for row in rows if dense),
            Row(megatron=f"{M}{ours}", hf=norm, shape=(h,), layers=experts,
                engine=(ours, "pre_mlp_layernorm.weight")),
            Row(megatron=f"{M}mlp.router.weight", hf=(f"{L}mlp.gate.weight",), shape=(n, h), layers=experts),
            Row(megatron=f"{M}mlp.router.expert_bias", hf=(f"{L}mlp.gate.e_score_correction_bias",),
                shape=(n,), layers=experts, fp32=True),
            *feed_forward_rows(f"{M}mlp.experts.{{expert}}.", f"{L}mlp.experts.{{expert}}.", hidden=h,
                               inner=inner, layers=experts, experts=n),
            *feed_forward_rows(f"{M}mlp.shared_experts.", f"{L}mlp.shared_experts.", hidden=h,
                               inner=self._shared_width, layers=experts),
        ]  # fmt: skip


FAMILY = Glm4Moe
