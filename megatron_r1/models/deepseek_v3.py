"""DeepSeek-V3: MLA, a sigmoid router with bias and groups, shared experts, multi-token prediction.

Source: arXiv 2412.19437, sections 2.1, 2.2 and 4.2, and the published configuration. Also for the shapes of
V2-Lite and Moonlight (no low-rank query, one expert group).
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from megatron_r1.models.dense import L, M, feed_forward_rows
from megatron_r1.models.hf_config import MOST_LAYERS, HfConfig, write_rope
from megatron_r1.models.shape import (
    Experts,
    FamilyConfig,
    Layers,
    ModelShape,
    NonNegative,
    Positions,
    Positive,
    Vocabulary,
    Width,
    divisors,
    expert_problems,
)
from megatron_r1.models.weights import SAME, Copy, HalvesToPairs, Row, Shard
from megatron_r1.section import Section

LATENT_EPSILON = 1e-6  # of the norms on both latents; DeepSeek's code ignores rms_norm_eps there
MTP = "mtp.layers.{depth}."


class Yarn(Section):
    """Longer contexts by rescaled RoPE (YaRN, arXiv 2309.00071); V3 uses it for the decoupled key only."""

    factor: Positive
    """Factor by which the context is extended."""
    original_max_position_embeddings: Positions
    """The context length before the extension."""
    beta_fast: Positive = 32.0
    """Frequencies with more rotations over the original context stay unchanged."""
    beta_slow: Positive = 1.0
    """Frequencies with fewer rotations over the original context are interpolated in full."""
    mscale: NonNegative = 1.0
    """Scale of the rotated part. V3: 1."""
    mscale_all_dim: NonNegative = 1.0
    """Also scales the softmax, by (0.1 * this * ln factor + 1) squared. V3: 1."""


class DeepseekV3(FamilyConfig):
    """The shape of a DeepSeek-V3-class model. The comments give V3's own values."""

    hf_architecture: ClassVar[str | None] = "DeepseekV3ForCausalLM"
    hf_model_type: ClassVar[str] = "deepseek_v3"
    hf_recomputed: ClassVar[tuple[str, ...]] = (".rotary_emb.inv_freq",)
    hf_training_only: ClassVar[tuple[str, ...]] = (
        *FamilyConfig.hf_training_only, "router_bias_update_rate", "sequence_aux_loss", "mtp_loss_weight",
    )  # fmt: skip
    family: Literal["deepseek_v3"]
    vocab_size: Vocabulary
    """Rows of the embedding. V3: 129280."""
    num_layers: Layers
    """Transformer layers without MTP. V3: 61."""
    hidden_size: Width
    """V3: 7168."""
    num_attention_heads: Width
    """V3: 128."""
    q_lora_rank: Width | None = None
    """Rank of the query's latent; null: a full query projection. V3: 1536."""
    kv_lora_rank: Width
    """Rank of the latent that keys and values share. V3: 512."""
    qk_head_dim: Width
    """Width of a query or key head without its rotated part. V3: 128."""
    qk_pos_emb_head_dim: Width
    """Width of the rotated part, whose key all heads share. V3: 64."""
    v_head_dim: Width
    """Width of a value head. V3: 128."""
    num_dense_layers: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Number of layers without experts, which come first. V3: 3."""
    ffn_hidden_size: Width
    """Inner width of a dense layer. V3: 18432."""
    num_experts: Experts
    """Routed experts per layer. V3: 256."""
    experts_per_token: Experts
    """Routed experts per token. V3: 8."""
    num_shared_experts: Annotated[int, Field(ge=0, le=1 << 16)] = 1
    """Shared experts, which process every token. V3: 1."""
    moe_ffn_hidden_size: Width
    """Inner width of one expert. V3: 2048."""
    num_expert_groups: Experts | None = None
    """Groups of experts, of which a token may use groups_per_token; null: no limit. V3: 8."""
    groups_per_token: Experts | None = None
    """Groups whose experts a token may use. V3: 4."""
    router_scaling_factor: Positive = 2.5
    """Factor on the routed experts' weights. V3: 2.5."""
    router_bias_update_rate: NonNegative = 1e-3
    """Update rate of the bias that balances the load without a loss (section 2.1.2). V3: 0.001, finally 0."""
    sequence_aux_loss: NonNegative = 1e-4
    """Weight of the sequence-wise balance loss (eq. 17). V3: 0.0001."""
    mtp_layers: Annotated[int, Field(ge=0, le=1_000)] = 0
    """Multi-token prediction depth (section 2.2). V3: 1."""
    mtp_loss_weight: NonNegative = 0.3
    """Weight of the MTP loss (eq. 25). V3: 0.3 for 10T tokens, then 0.1."""
    rope_theta: Positive = 1e4
    """Base of the rotary frequencies."""
    yarn: Yarn | None = None
    """Context extension; V3: factor 40 from 4096."""
    norm_epsilon: Positive = 1e-6
    """Of every RMSNorm."""
    init_std: NonNegative = 0.006
    """Standard deviation of the initial weights. V3: 0.006."""
    rope_interleave: bool = True
    """Order of the rotated rows in Hugging Face's files: in pairs (all released models), or in halves."""
    max_position_embeddings: Positions = 4096
    """The longest sequence."""
    megatron: dict[str, Any] = Field(default_factory=dict)
    """Overrides: fields of megatron-core's TransformerConfig, checked against the real ones."""

    @model_validator(mode="after")
    def _groups_come_in_pairs(self) -> Self:
        if (self.num_expert_groups is None) != (self.groups_per_token is None):
            raise ValueError("num_expert_groups and groups_per_token go together: set both or neither")
        return self

    def problems(self) -> list[str]:
        found = expert_problems(num_experts=self.num_experts, experts_per_token=self.experts_per_token)
        if self.num_dense_layers > self.num_layers:
            found.append(
                f"num_dense_layers: {self.num_dense_layers} of num_layers={self.num_layers}; lower it"
            )
        if self.qk_pos_emb_head_dim % 2:
            found.append(
                f"qk_pos_emb_head_dim: {self.qk_pos_emb_head_dim} is odd, and RoPE turns pairs; "
                f"use {self.qk_pos_emb_head_dim + 1} or another even number"
            )
        return found or self._group_problems()

    def _group_problems(self) -> list[str]:
        """Megatron scores a group by its best experts_per_token / groups_per_token experts."""
        groups, chosen, topk = self.num_expert_groups, self.groups_per_token, self.experts_per_token
        if groups is None or chosen is None:
            return []
        if self.num_experts % groups:
            return [
                f"num_expert_groups: {groups} does not divide num_experts={self.num_experts}; "
                f"use {divisors(self.num_experts)}"
            ]
        each = self.num_experts // groups
        if chosen > groups:
            return [f"groups_per_token: {chosen} of num_expert_groups={groups}; lower it"]
        if not chosen <= topk <= chosen * each:
            return [
                f"experts_per_token: {topk} of groups_per_token={chosen} groups of {each} experts; it is at "
                f"least {chosen} and at most {chosen * each}"
            ]
        return []

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
            cut_by_tensor={name: size for name, size in self._cut_by_tensor().items() if size},
        )

    def _cut_by_tensor(self) -> dict[str, int]:
        return {
            "q_lora_rank": self.q_lora_rank or 0,
            "kv_lora_rank + qk_pos_emb_head_dim": self.kv_lora_rank + self.qk_pos_emb_head_dim,
            "num_shared_experts x moe_ffn_hidden_size": self.num_shared_experts * self.moe_ffn_hidden_size,
            "hidden_size": self.hidden_size if self.mtp_layers else 0,  # of MTP's projection
        }

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
            # must be 1: the factor also scales the softmax, and the logits would be off by 4.7
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

    @classmethod
    def from_hf(cls, config: HfConfig) -> Self:
        arguments = _arguments(config)
        config.finish("DeepseekV3ForCausalLM")
        return cls(**arguments)

    def to_hf(self) -> dict[str, Any]:
        groups = self.num_expert_groups or 1
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_attention_heads,
            "q_lora_rank": self.q_lora_rank,
            "kv_lora_rank": self.kv_lora_rank,
            "qk_nope_head_dim": self.qk_head_dim,
            "qk_rope_head_dim": self.qk_pos_emb_head_dim,
            "v_head_dim": self.v_head_dim,
            "first_k_dense_replace": self.num_dense_layers,
            "moe_layer_freq": 1,
            "intermediate_size": self.ffn_hidden_size,
            "n_routed_experts": self.num_experts,
            "num_experts_per_tok": self.experts_per_token,
            "n_shared_experts": self.num_shared_experts,
            "moe_intermediate_size": self.moe_ffn_hidden_size,
            "n_group": groups,
            "topk_group": self.groups_per_token or 1,
            "routed_scaling_factor": self.router_scaling_factor,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
            "num_nextn_predict_layers": self.mtp_layers,
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": False,
            "rms_norm_eps": self.norm_epsilon,
            "initializer_range": self.init_std,
            "rope_interleave": self.rope_interleave,
            "max_position_embeddings": self.max_position_embeddings,
            **write_rope(self.rope_theta, None if self.yarn is None else _yarn_to_hf(self.yarn)),
        }

    def weight_rows(self) -> list[Row]:
        table, h, dense = (self.vocab_size, self.hidden_size), self.hidden_size, self.num_dense_layers
        after = self.num_layers
        return [
            Row(megatron="embedding.word_embeddings.weight", hf=("model.embed_tokens.weight",), shape=table,
                shard=Shard.COLUMN),
            Row(megatron="decoder.final_layernorm.weight", hf=("model.norm.weight",), shape=(h,)),
            Row(megatron="output_layer.weight", hf=("lm_head.weight",), shape=table, shard=Shard.COLUMN),
            *self._layer_rows(M, range(dense), has_experts=False),
            *self._layer_rows(M, range(dense, after), has_experts=True),
            *self._mtp_rows(range(after, after + self.mtp_layers)),
        ]  # fmt: skip

    def _mtp_rows(self, layers: range) -> list[Row]:
        if not layers:
            return []
        h = self.hidden_size
        return [
            Row(megatron=f"{MTP}enorm.weight", hf=(f"{L}enorm.weight",), shape=(h,), layers=layers),
            Row(megatron=f"{MTP}hnorm.weight", hf=(f"{L}hnorm.weight",), shape=(h,), layers=layers),
            Row(megatron=f"{MTP}eh_proj.weight", hf=(f"{L}eh_proj.weight",), shape=(h, 2 * h),
                shard=Shard.COLUMN, layers=layers),
            Row(megatron=f"{MTP}final_layernorm.weight", hf=(f"{L}shared_head.norm.weight",), shape=(h,),
                layers=layers),
            *self._layer_rows(f"{MTP}transformer_layer.", layers,
                              has_experts=self.num_dense_layers < self.num_layers),
        ]  # fmt: skip

    def _layer_rows(self, prefix: str, layers: range, *, has_experts: bool) -> list[Row]:
        if not layers:
            return []
        h = self.hidden_size
        norm = Row(
            megatron=f"{prefix}pre_mlp_layernorm.weight",
            hf=(f"{L}post_attention_layernorm.weight",),
            shape=(h,),
            layers=layers,
            engine=None if has_experts else ("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"),
        )
        network = (
            self._expert_rows(prefix, layers)
            if has_experts
            else feed_forward_rows(
                f"{prefix}mlp.", f"{L}mlp.", hidden=h, inner=self.ffn_hidden_size, layers=layers
            )
        )
        return [
            Row(megatron=f"{prefix}input_layernorm.weight", hf=(f"{L}input_layernorm.weight",), shape=(h,),
                layers=layers),
            *self._attention_rows(f"{prefix}self_attention.", layers),
            norm,
            *network,
        ]  # fmt: skip

    def _attention_rows(self, prefix: str, layers: range) -> list[Row]:
        """MLA's rows. Megatron's modules divide the down projections over tensor ranks too."""
        h, heads = self.hidden_size, self.num_attention_heads
        plain, rotated, latent = self.qk_head_dim, self.qk_pos_emb_head_dim, self.kv_lora_rank
        queries = SAME if self.rope_interleave else HalvesToPairs(heads, plain, rotated)
        keys = SAME if self.rope_interleave else HalvesToPairs(1, latent, rotated)

        def linear(ours: str, theirs: str, shape: tuple[int, int], **more: Any) -> Row:
            return Row(megatron=f"{prefix}{ours}.weight", hf=(f"{L}self_attn.{theirs}.weight",), shape=shape,
                       layers=layers, blocks=True, **{"shard": Shard.COLUMN, **more})  # fmt: skip

        def norm(of: str, width: int) -> Row:
            ours, theirs = f"{of}_layernorm.weight", f"{of}_a_layernorm.weight"
            return Row(megatron=f"{prefix}{ours}", hf=(f"{L}self_attn.{theirs}",), shape=(width,),
                       layers=layers, engine=(ours, f"linear_{of}_up_proj.layer_norm_weight"))  # fmt: skip

        width = heads * (plain + rotated)
        if self.q_lora_rank is None:
            query = [linear("linear_q_proj", "q_proj", (width, h), join=queries)]
        else:
            query = [
                linear("linear_q_down_proj", "q_a_proj", (self.q_lora_rank, h)),
                norm("q", self.q_lora_rank),
                linear("linear_q_up_proj", "q_b_proj", (width, self.q_lora_rank), join=queries),
            ]
        return [
            *query,
            linear("linear_kv_down_proj", "kv_a_proj_with_mqa", (latent + rotated, h), join=keys),
            norm("kv", latent),
            linear("linear_kv_up_proj", "kv_b_proj", (heads * (plain + self.v_head_dim), latent)),
            linear("linear_proj", "o_proj", (h, heads * self.v_head_dim), shard=Shard.ROW),
        ]

    def _expert_rows(self, prefix: str, layers: range) -> list[Row]:
        h, inner, n = self.hidden_size, self.moe_ffn_hidden_size, self.num_experts
        rows = [
            Row(megatron=f"{prefix}mlp.router.weight", hf=(f"{L}mlp.gate.weight",), shape=(n, h),
                layers=layers),
            Row(megatron=f"{prefix}mlp.router.expert_bias", hf=(f"{L}mlp.gate.e_score_correction_bias",),
                shape=(n,), layers=layers, fp32=True),
            *feed_forward_rows(f"{prefix}mlp.experts.{{expert}}.", f"{L}mlp.experts.{{expert}}.", hidden=h,
                               inner=inner, layers=layers, experts=n),
        ]  # fmt: skip
        if self.num_shared_experts:
            rows += feed_forward_rows(f"{prefix}mlp.shared_experts.", f"{L}mlp.shared_experts.", hidden=h,
                                      inner=self.num_shared_experts * inner, layers=layers)  # fmt: skip
        return rows

    def copies(self) -> list[Copy]:
        layers = range(self.num_layers, self.num_layers + self.mtp_layers)
        return [
            copy
            for layer in layers
            for copy in (
                Copy(f"model.layers.{layer}.embed_tokens.weight", "model.embed_tokens.weight", exported=True),
                Copy(f"model.layers.{layer}.shared_head.head.weight", "lm_head.weight", exported=True),
            )
        ]


def _arguments(config: HfConfig) -> dict[str, Any]:
    heads, experts = config.size("num_attention_heads"), config.optional_integer("n_routed_experts")
    config.needs("q_lora_rank", "first_k_dense_replace", "n_shared_experts", "n_group", "topk_group")
    config.require("hidden_act", "silu", why="another activation")
    config.require("attention_bias", False, why="biases in the attention")
    config.require("tie_word_embeddings", False, why="tied embeddings")
    config.require("num_key_value_heads", heads, why="MLA has a key for every head")
    config.require("scoring_func", "sigmoid", why="another router")
    config.require("topk_method", "noaux_tc", why="another router")
    config.require("moe_layer_freq", 1, why="layers without experts after the first ones")
    config.require("norm_topk_prob", True, why="Megatron's sigmoid router normalises, off by 5 in the logits")
    if not experts:
        config.refuse("n_routed_experts is missing or 0: a model without experts")
    rotated, positions = config.size("qk_rope_head_dim"), config.size("max_position_embeddings")
    if rotated % 2 and rotated > 1:
        config.refuse(f"qk_rope_head_dim={rotated} is odd, and RoPE turns pairs")
    theta, scaling = config.rope(1e4)
    layers = config.size("num_hidden_layers", most=MOST_LAYERS)
    dense = config.integer("first_k_dense_replace", 0)
    if dense >= layers:
        config.refuse(f"first_k_dense_replace={dense} of {layers} layers: a model without experts")
    return {
        "family": "deepseek_v3",
        "vocab_size": config.size("vocab_size"),
        "num_layers": layers,
        "hidden_size": config.size("hidden_size"),
        "num_attention_heads": heads,
        "q_lora_rank": config.optional_integer("q_lora_rank"),
        "kv_lora_rank": config.size("kv_lora_rank"),
        "qk_head_dim": config.size("qk_nope_head_dim"),
        "qk_pos_emb_head_dim": rotated,
        "v_head_dim": config.size("v_head_dim"),
        "num_dense_layers": dense,
        "ffn_hidden_size": config.size("intermediate_size"),
        "num_experts": experts or 0,
        "num_shared_experts": config.optional_integer("n_shared_experts") or 0,
        "moe_ffn_hidden_size": config.size("moe_intermediate_size"),
        "router_scaling_factor": config.positive("routed_scaling_factor"),
        "mtp_layers": config.optional_integer("num_nextn_predict_layers")
        or config.optional_integer("num_mtp_layers")
        or 0,
        "rope_theta": theta,
        "rope_interleave": config.flag("rope_interleave", default=True),
        "yarn": None if scaling is None else _yarn(config, scaling, positions),
        "norm_epsilon": config.positive("rms_norm_eps", 1e-6, most=1.0),
        "init_std": config.number("initializer_range", 0.02),
        "max_position_embeddings": positions,
        **_groups(config, experts or 0),
    }


def _groups(config: HfConfig, experts: int) -> dict[str, Any]:
    """The routing keys. Refused where Megatron would score groups differently from Hugging Face.

    Megatron scores a group by its best topk / topk_group experts, Hugging Face by its best two.
    """
    topk = config.size("num_experts_per_tok")
    groups, chosen = config.optional_integer("n_group") or 1, config.optional_integer("topk_group") or 1
    if topk == 1:
        config.refuse(
            "num_experts_per_tok=1: Megatron does not normalise a single expert's weight, off by 2.8"
        )
    if experts and topk > experts:
        config.refuse(f"num_experts_per_tok={topk} of n_routed_experts={experts}")
    if chosen > groups or experts % groups:
        config.refuse(
            f"n_group={groups} and topk_group={chosen} of n_routed_experts={experts}: no equal groups"
        )
    if groups == chosen:  # a token may use all groups, so there is no limit
        return {"experts_per_token": topk}
    if topk != 2 * chosen:
        config.refuse(
            f"num_experts_per_tok={topk} and topk_group={chosen} of n_group={groups}: Megatron scores a "
            f"group by its best {topk // max(1, chosen)} experts, Hugging Face by its best 2; only "
            "num_experts_per_tok = 2 x topk_group can be converted"
        )
    return {"experts_per_token": topk, "num_expert_groups": groups, "groups_per_token": chosen}


def _yarn(config: HfConfig, scaling: dict[str, Any], positions: int) -> Yarn | None:
    """YaRN's section. Unless both mscale and mscale_all_dim are set, mscale is 1 and mscale_all_dim 0."""
    if scaling["type"] != "yarn":
        config.refuse(f"rope_scaling of type {scaling['type']!r}: only yarn can be converted")
        return None
    numbers = HfConfig(scaling, config.refusals)
    numbers.require("truncate", True, why="correction ranges that are not rounded")
    numbers.require("attention_factor", None, why="a scale of its own on the rotated part")
    scale, all_dim = numbers.number("mscale", 0.0), numbers.number("mscale_all_dim", 0.0)
    if all_dim and not scale:
        config.refuse("rope_scaling.mscale_all_dim without mscale: Megatron divides the one by the other")
    return Yarn(
        factor=numbers.positive("factor"),
        original_max_position_embeddings=numbers.integer("original_max_position_embeddings", positions)
        or positions,
        beta_fast=numbers.positive("beta_fast", 32.0),
        beta_slow=numbers.positive("beta_slow", 1.0),
        mscale=scale if all_dim else 1.0,
        mscale_all_dim=all_dim,
    )


def _yarn_to_hf(yarn: Yarn) -> dict[str, Any]:
    return {"type": "yarn", **yarn.model_dump()}


FAMILY = DeepseekV3
