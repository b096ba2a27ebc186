"""What Qwen2, Qwen3 and Llama share: pre-norm layers with grouped-query attention and SwiGLU."""

from typing import Any, ClassVar

from pydantic import Field

from megatron_r1.models.shape import FamilyConfig, ModelShape


class DenseConfig(FamilyConfig):
    """The shape of a dense decoder."""

    qkv_bias: ClassVar[bool] = False
    """Whether query, key and value projections have biases."""
    qk_norm: ClassVar[bool] = False
    """Whether query and key heads are normalised."""

    vocab_size: int
    """Rows of the embedding."""
    num_layers: int
    """Transformer layers."""
    hidden_size: int
    """Width of the residual stream."""
    num_attention_heads: int
    """Query heads."""
    num_query_groups: int
    """Key and value heads."""
    head_dim: int | None = None
    """Width of a head; null: hidden_size / num_attention_heads."""
    ffn_hidden_size: int
    """Inner width of a layer's feed-forward network."""
    tie_embeddings: bool = False
    """Whether the output layer is the embedding itself."""
    rope_theta: float = 1e4
    """Base of the rotary frequencies."""
    norm_epsilon: float = 1e-6
    """Of every RMSNorm."""
    init_std: float = 0.02
    """Standard deviation of the initial weights."""
    max_position_embeddings: int = 4096
    """The longest sequence."""
    megatron: dict[str, Any] = Field(default_factory=dict)
    """Fields of megatron-core's TransformerConfig, the one escape hatch; checked against the real fields."""

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
