"""DeepSeek-V3: MLA, a sigmoid router with bias and groups, shared experts, multi-token prediction.

Source: arXiv 2412.19437, sections 2.1, 2.2 and 4.2, and the published configuration. Also V2-Lite and
Moonlight shapes (no low-rank query, one group).
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from megatron_r1.config.section import Section
from megatron_r1.models.shape import FamilyConfig, ModelShape


class Yarn(Section):
    """Longer contexts by rescaled RoPE (YaRN, arXiv 2309.00071); V3 uses it for the decoupled key only."""

    factor: float
    """How much longer than the original context."""
    original_max_position_embeddings: int
    """The context that the model was trained with before."""
    beta_fast: float = 32.0
    """Rotations above which a frequency is left as it is."""
    beta_slow: float = 1.0
    """Rotations below which a frequency is interpolated in full."""
    mscale: float = 1.0
    """Scale of the rotated part; V3: 1."""
    mscale_all_dim: float = 1.0
    """Also scales the softmax, by (0.1 * this * ln factor + 1) squared; V3: 1."""


class DeepseekV3(FamilyConfig):
    """The shape of a DeepSeek-V3-class model. The comments give V3's own values."""

    family: Literal["deepseek_v3"]
    vocab_size: int
    """Rows of the embedding. V3: 129280."""
    num_layers: int
    """Transformer layers without MTP. V3: 61."""
    hidden_size: int
    """V3: 7168."""
    num_attention_heads: int
    """V3: 128."""
    q_lora_rank: int | None = None
    """Width of the query's latent; null: a full query projection. V3: 1536."""
    kv_lora_rank: int
    """Width of the latent that keys and values share. V3: 512."""
    qk_head_dim: int
    """Width of a query or key head without its rotated part. V3: 128."""
    qk_pos_emb_head_dim: int
    """Width of the rotated part, whose key all heads share. V3: 64."""
    v_head_dim: int
    """Width of a value head. V3: 128."""
    num_dense_layers: int = 1
    """The first layers have no experts. V3: 3."""
    ffn_hidden_size: int
    """Inner width of a dense layer. V3: 18432."""
    num_experts: int
    """Routed experts a layer. V3: 256."""
    experts_per_token: int
    """Routed experts that a token visits. V3: 8."""
    num_shared_experts: int = 1
    """Experts that every token visits. V3: 1."""
    moe_ffn_hidden_size: int
    """Inner width of one expert. V3: 2048."""
    num_expert_groups: int | None = None
    """Groups of experts, one a node; null: no limit. V3: 8."""
    groups_per_token: int | None = None
    """Groups that a token may visit. V3: 4."""
    router_scaling_factor: float = 2.5
    """Factor on the routed experts' weights. V3: 2.5."""
    router_bias_update_rate: float = 1e-3
    """Speed of the bias that balances the load without a loss (section 2.1.2). V3: 0.001, at the end 0."""
    sequence_aux_loss: float = 1e-4
    """Weight of the sequence-wise balance loss (eq. 17). V3: 0.0001."""
    mtp_layers: int = 0
    """Multi-token prediction depth (section 2.2). V3: 1."""
    mtp_loss_weight: float = 0.3
    """Weight of the MTP loss (eq. 25). V3: 0.3 for 10T tokens, then 0.1."""
    rope_theta: float = 1e4
    """Base of the rotary frequencies."""
    yarn: Yarn | None = None
    """Context extension; V3: factor 40 from 4096."""
    norm_epsilon: float = 1e-6
    """Of every RMSNorm."""
    init_std: float = 0.006
    """Standard deviation of the initial weights. V3: 0.006."""
    max_position_embeddings: int = 4096
    """The longest sequence."""
    megatron: dict[str, Any] = Field(default_factory=dict)
    """Fields of megatron-core's TransformerConfig, the one escape hatch; checked against the real fields."""

    @model_validator(mode="after")
    def _groups_come_in_pairs(self) -> Self:
        if (self.num_expert_groups is None) != (self.groups_per_token is None):
            raise ValueError("num_expert_groups and groups_per_token go together: set both or neither")
        return self

    def shape(self) -> ModelShape:
        return ModelShape(
            num_layers=self.num_layers,
            num_attention_heads=self.num_attention_heads,
            num_query_groups=self.num_attention_heads,
            vocab_size=self.vocab_size,
            ffn_hidden_size=self.ffn_hidden_size,
            num_experts=self.num_experts,
            moe_ffn_hidden_size=self.moe_ffn_hidden_size,
            num_dense_layers=self.num_dense_layers,
            num_mtp_layers=self.mtp_layers,
        )

    def transformer_config(self) -> dict[str, Any]:
        """Arguments of megatron-core's MLATransformerConfig."""
        moe_layers = self.num_layers - self.num_dense_layers
        return {
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "ffn_hidden_size": self.ffn_hidden_size,
            "multi_latent_attention": True,
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": self.kv_lora_rank,
            "qk_head_dim": self.qk_head_dim,
            "qk_pos_emb_head_dim": self.qk_pos_emb_head_dim,
            "v_head_dim": self.v_head_dim,
            "kv_channels": self.v_head_dim,
            "qk_layernorm": True,  # the norms on both latents; without them logits are off by 4
            "num_moe_experts": self.num_experts,
            "moe_layer_freq": [0] * self.num_dense_layers + [1] * moe_layers,
            "moe_ffn_hidden_size": self.moe_ffn_hidden_size,
            "moe_shared_expert_intermediate_size": self.num_shared_experts * self.moe_ffn_hidden_size or None,
            "moe_router_topk": self.experts_per_token,
            "moe_router_num_groups": self.num_expert_groups,
            "moe_router_group_topk": self.groups_per_token,
            "moe_router_score_function": "sigmoid",
            "moe_router_dtype": "fp32",
            "moe_router_topk_scaling_factor": self.router_scaling_factor,
            "moe_router_enable_expert_bias": True,
            "moe_router_bias_update_rate": self.router_bias_update_rate,
            "moe_router_load_balancing_type": "seq_aux_loss" if self.sequence_aux_loss else "none",
            "moe_aux_loss_coeff": self.sequence_aux_loss,
            "mtp_num_layers": self.mtp_layers or None,
            "mtp_loss_scaling_factor": self.mtp_loss_weight,
            "layernorm_epsilon": self.norm_epsilon,
            "init_method_std": self.init_std,
            **self._rope(),
            **self.megatron,
        }

    def _rope(self) -> dict[str, Any]:
        if self.yarn is None:
            # the factor also scales the softmax: 1, or logits are off by 4.7
            return {"rope_type": "rope", "rotary_base": self.rope_theta, "rotary_scaling_factor": 1.0}
        return {
            "rope_type": "yarn",
            "rotary_base": self.rope_theta,
            "rotary_scaling_factor": self.yarn.factor,
            "original_max_position_embeddings": self.yarn.original_max_position_embeddings,
            "beta_fast": self.yarn.beta_fast,
            "beta_slow": self.yarn.beta_slow,
            "mscale": self.yarn.mscale,
            "mscale_all_dim": self.yarn.mscale_all_dim,
        }


FAMILY = DeepseekV3
