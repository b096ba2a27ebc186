"""Base of Qwen2, Qwen3 and Llama: pre-norm layers with grouped-query attention and SwiGLU."""

from typing import Any, ClassVar, Self, get_args

from pydantic import Field

from megatron_r1.models.hf_config import MOST_LAYERS, HfConfig, write_rope
from megatron_r1.models.shape import (
    FamilyConfig,
    Layers,
    ModelShape,
    NonNegative,
    Positions,
    Positive,
    Rope,
    Vocabulary,
    Width,
    divisors,
)
from megatron_r1.models.weights import GATE_UP, Copy, Qkv, Row, Shard

L, M = "model.layers.{layer}.", "decoder.layers.{layer}."


class DenseConfig(FamilyConfig):
    """The shape of a dense decoder."""

    qkv_bias: ClassVar[bool] = False
    """Whether query, key and value projections have biases."""
    qk_norm: ClassVar[bool] = False
    """Whether query and key heads are normalised."""

    vocab_size: Vocabulary
    """Rows of the embedding."""
    num_layers: Layers
    """Transformer layers."""
    hidden_size: Width
    """Width of the residual stream."""
    num_attention_heads: Width
    """Query heads."""
    num_query_groups: Width
    """Key and value heads."""
    head_dim: Width | None = None
    """Width of a head; null: hidden_size / num_attention_heads."""
    ffn_hidden_size: Width
    """Inner width of a layer's feed-forward network."""
    tie_embeddings: bool = False
    """Whether the output layer shares the embedding's weight."""
    rope_theta: Positive = 1e4
    """Base of the rotary frequencies."""
    norm_epsilon: Positive = 1e-6
    """Of every RMSNorm."""
    init_std: NonNegative = 0.02
    """Standard deviation of the initial weights."""
    max_position_embeddings: Positions = 4096
    """The longest sequence."""
    megatron: dict[str, Any] = Field(default_factory=dict)
    """Overrides: fields of megatron-core's TransformerConfig, checked against the real ones."""

    def shape(self) -> ModelShape:
        return ModelShape(
            num_layers=self.num_layers,
            num_attention_heads=self.num_attention_heads,
            num_query_groups=self.num_query_groups,
            vocab_size=self.vocab_size,
            ffn_hidden_size=self.ffn_hidden_size,
        )

    def transformer_config(self) -> dict[str, Any]:
        """Arguments of megatron-core's TransformerConfig."""
        return {
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "num_query_groups": self.num_query_groups,
            "kv_channels": self.head_dim or self.hidden_size // self.num_attention_heads,
            "ffn_hidden_size": self.ffn_hidden_size,
            "add_qkv_bias": self.qkv_bias,
            "qk_layernorm": self.qk_norm,
            "layernorm_epsilon": self.norm_epsilon,
            "init_method_std": self.init_std,
            **self.megatron,
        }

    def rope(self) -> Rope:
        return Rope(self.rope_theta)

    @property
    def output_is_embedding(self) -> bool:
        return self.tie_embeddings

    def problems(self) -> list[str]:
        return [*self._head_problems(), *self._network_problems()]

    def _head_problems(self) -> list[str]:
        heads, groups, hidden = self.num_attention_heads, self.num_query_groups, self.hidden_size
        found = []
        if heads % groups:
            found.append(
                f"num_query_groups: {groups} does not divide num_attention_heads={heads}; "
                f"use {divisors(heads)}"
            )
        if self.head_dim is None and hidden % heads:
            found.append(
                f"num_attention_heads: {heads} does not divide hidden_size={hidden}; "
                f"use {divisors(hidden)}, or give head_dim"
            )
        elif self.width_of_head % 2:
            found.append(
                f"head_dim: {self.width_of_head} is odd, and RoPE turns pairs; "
                f"use {self.width_of_head + 1} or another even number"
            )
        return found

    def _network_problems(self) -> list[str]:
        return []

    @property
    def width_of_head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    # --- Hugging Face

    hf_recomputed: ClassVar[tuple[str, ...]] = (".rotary_emb.inv_freq",)
    hf_theta: ClassVar[float] = 1e4
    """Default of rope_theta in config.json."""
    hf_partial_rotary: ClassVar[bool] = False
    """Whether RoPE may turn a part of each head; the family then reads the part itself."""
    hf_head_dim: ClassVar[int | None] = None
    """Default of head_dim in config.json; None: hidden_size / num_attention_heads."""

    @classmethod
    def from_hf(cls, config: HfConfig) -> Self:
        arguments = cls._arguments(config)
        config.finish(str(cls.hf_architecture))
        return cls(**arguments)

    @classmethod
    def _arguments(cls, config: HfConfig) -> dict[str, Any]:
        """The section's fields; what can't be converted is added to the config's refusals."""
        config.require("hidden_act", "silu", why="another activation")
        config.require("use_sliding_window", False, why="sliding windows")
        config.require("attention_bias", cls.qkv_bias, why="other biases than the family has")
        config.require("mlp_bias", False, why="biases in the feed-forward network")
        types = config.get("layer_types") or []
        for kind in sorted({str(kind) for kind in (types if isinstance(types, list) else [types])}):
            if kind != "full_attention":
                config.refuse(f"layer_types holds {kind!r}: only full_attention can be converted")
        heads = config.size("num_attention_heads")
        groups = config.optional_integer("num_key_value_heads") or heads
        if heads % groups:
            config.refuse(f"num_attention_heads={heads} is no multiple of num_key_value_heads={groups}")
        hidden, width = config.size("hidden_size"), config.optional_integer("head_dim") or cls.hf_head_dim
        if width is None and hidden % heads:
            config.refuse(
                f"hidden_size={hidden} is no multiple of num_attention_heads={heads}, without head_dim"
            )
        if (width or hidden // heads) % 2:
            config.refuse(f"head_dim={width or hidden // heads} is odd, and RoPE turns pairs")
        theta, scaling = config.rope(cls.hf_theta, partial=cls.hf_partial_rotary)
        return {
            "family": get_args(cls.model_fields["family"].annotation)[0],
            "vocab_size": config.size("vocab_size"),
            "num_layers": config.size("num_hidden_layers", most=MOST_LAYERS),
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "num_query_groups": groups,
            "head_dim": width,
            "tie_embeddings": config.flag("tie_word_embeddings", default=False),
            "rope_theta": theta,
            "norm_epsilon": config.positive("rms_norm_eps", 1e-6, most=1.0),
            "init_std": config.number("initializer_range", 0.02),
            "max_position_embeddings": config.size("max_position_embeddings"),
            **cls._network(config),
            **cls._scaling(config, scaling),
        }

    @classmethod
    def _network(cls, config: HfConfig) -> dict[str, Any]:
        return {"ffn_hidden_size": config.size("intermediate_size")}

    @classmethod
    def _scaling(cls, config: HfConfig, scaling: dict[str, Any] | None) -> dict[str, Any]:
        if scaling is not None:
            config.refuse(f"rope_scaling of type {scaling['type']!r}: not in this family")
        return {}

    def to_hf(self) -> dict[str, Any]:
        return {
            "architectures": [self.hf_architecture],
            "model_type": self.hf_model_type,
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_query_groups,
            "head_dim": self.width_of_head,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tie_embeddings,
            "rms_norm_eps": self.norm_epsilon,
            "initializer_range": self.init_std,
            "max_position_embeddings": self.max_position_embeddings,
            **self._network_to_hf(),
            **write_rope(self.rope_theta, self._scaling_to_hf()),
        }

    def _network_to_hf(self) -> dict[str, Any]:
        return {"intermediate_size": self.ffn_hidden_size}

    def _scaling_to_hf(self) -> dict[str, Any] | None:
        return None

    def weight_rows(self) -> list[Row]:
        return [*self._outer_rows(), *self._attention_rows(), *self._network_rows()]

    def _outer_rows(self) -> list[Row]:
        table, width = (self.vocab_size, self.hidden_size), (self.hidden_size,)
        rows = [
            Row(megatron="embedding.word_embeddings.weight", hf=("model.embed_tokens.weight",), shape=table,
                shard=Shard.COLUMN),
            Row(megatron="decoder.final_layernorm.weight", hf=("model.norm.weight",), shape=width),
        ]  # fmt: skip
        if not self.tie_embeddings:
            rows.append(Row(megatron="output_layer.weight", hf=("lm_head.weight",), shape=table,
                            shard=Shard.COLUMN))  # fmt: skip
        return rows

    def _attention_rows(self) -> list[Row]:
        layers, width, h = range(self.num_layers), self.width_of_head, self.hidden_size
        join = Qkv(self.num_query_groups, self.num_attention_heads // self.num_query_groups, width)
        inner = self.num_attention_heads * width
        both = inner + 2 * self.num_query_groups * width
        kinds = {"weight": (both, h), **({"bias": (both,)} if self.qkv_bias else {})}
        rows = [
            Row(megatron=f"{M}self_attention.linear_qkv.layer_norm_weight",
                hf=(f"{L}input_layernorm.weight",), shape=(h,), layers=layers),
            *(Row(megatron=f"{M}self_attention.linear_qkv.{kind}", join=join, shard=Shard.COLUMN,
                  hf=tuple(f"{L}self_attn.{part}_proj.{kind}" for part in "qkv"),
                  shape=shape, layers=layers, blocks=kind == "weight")
              for kind, shape in kinds.items()),
            Row(megatron=f"{M}self_attention.linear_proj.weight", hf=(f"{L}self_attn.o_proj.weight",),
                shape=(h, inner), shard=Shard.ROW, layers=layers, blocks=True),
        ]  # fmt: skip
        if self.qk_norm:
            rows += [
                Row(megatron=f"{M}self_attention.{part}_layernorm.weight",
                    hf=(f"{L}self_attn.{part}_norm.weight",), shape=(width,), layers=layers)
                for part in "qk"
            ]  # fmt: skip
        return rows

    def _network_rows(self) -> list[Row]:
        layers, h, f = range(self.num_layers), self.hidden_size, self.ffn_hidden_size
        return [
            Row(megatron=f"{M}mlp.linear_fc1.layer_norm_weight", hf=(f"{L}post_attention_layernorm.weight",),
                shape=(h,), layers=layers),
            *feed_forward_rows(f"{M}mlp.", f"{L}mlp.", hidden=h, inner=f, layers=layers),
        ]  # fmt: skip

    def copies(self) -> list[Copy]:
        # some files repeat tied weights
        return (
            [Copy("lm_head.weight", "model.embed_tokens.weight", exported=False)]
            if self.tie_embeddings
            else []
        )


def feed_forward_rows(
    megatron: str, hf: str, *, hidden: int, inner: int, layers: range, experts: int = 0
) -> list[Row]:
    """Rows of a SwiGLU network (gate, up and down) under these name prefixes."""
    return [
        Row(megatron=f"{megatron}linear_fc1.weight", hf=(f"{hf}gate_proj.weight", f"{hf}up_proj.weight"),
            shape=(2 * inner, hidden), join=GATE_UP, shard=Shard.COLUMN, layers=layers, experts=experts,
            blocks=True),
        Row(megatron=f"{megatron}linear_fc2.weight", hf=(f"{hf}down_proj.weight",), shape=(hidden, inner),
            shard=Shard.ROW, layers=layers, experts=experts, blocks=True),
    ]  # fmt: skip
