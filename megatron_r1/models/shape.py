"""Base of the model families' sections, and the sizes from which layouts and plans are computed.

Imports neither torch nor Megatron, so that checking a configuration is quick.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from megatron_r1.models.hf_config import HfConfig
from megatron_r1.models.weights import Copy, Row, Weight, expand
from megatron_r1.section import Section


def divisors(size: int) -> str:
    """The largest divisors, for an error message: "2 or 4 or 8"."""
    found = [n for n in range(1, size + 1) if size % n == 0]
    return " or ".join(map(str, found[-6:]))


def expert_problems(*, num_experts: int, experts_per_token: int) -> list[str]:
    """Problems that any router has."""
    if experts_per_token <= num_experts:
        return []
    return [f"experts_per_token: {experts_per_token}, and there are num_experts={num_experts}; lower it"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a model that a layout divides; 0 if the model has no such part."""

    num_layers: int
    num_attention_heads: int
    num_query_groups: int  # key/value heads; with MLA the same as num_attention_heads
    vocab_size: int
    ffn_hidden_size: int = 0  # of a dense layer
    num_experts: int = 0  # 0: a dense model
    moe_ffn_hidden_size: int = 0  # of one routed expert
    num_dense_layers: int = 0  # before the first layer with experts
    num_mtp_layers: int = 0
    cut_by_tensor: Mapping[str, int] = field(default_factory=dict)  # further sizes that tensor ranks divide


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embeddings of grouped-query attention.

    share: of a head's channels, the first of which turn. rescale: inverse frequencies -> those in use.
    """

    base: float
    share: float = 1.0
    rescale: Callable[[list[float]], list[float]] | None = None


# Far above any existing model: a larger size is a mistake, and planning it would exhaust the memory.
Layers = Annotated[int, Field(ge=1, le=10_000)]
Width = Annotated[int, Field(ge=1, le=1 << 20)]
Vocabulary = Annotated[int, Field(ge=1, le=1 << 24)]
Experts = Annotated[int, Field(ge=1, le=1 << 16)]
Positions = Annotated[int, Field(ge=1, le=1 << 30)]
Positive = Annotated[float, Field(ge=1e-30, le=1e30)]  # within float32
NonNegative = Annotated[float, Field(ge=0, le=1e6)]


class FamilyConfig(Section):
    """Base of every model family's section, which narrows `family` to its own name."""

    family: str
    """The model family, by the name of its file in megatron_r1/models or of a plug-in."""

    max_position_embeddings: Positions = 4096
    """The longest sequence."""

    megatron: dict[str, Any] = Field(default_factory=dict)
    """Overrides: fields of megatron-core's TransformerConfig, checked against the real ones."""

    def shape(self) -> ModelShape:
        raise NotImplementedError(f"{type(self).__name__}.shape")

    def transformer_config(self) -> dict[str, Any]:
        """Arguments of megatron-core's TransformerConfig, `megatron` included."""
        raise NotImplementedError(f"{type(self).__name__}.transformer_config")

    def rope(self) -> Rope | None:
        """Rotary embeddings; None: the attention makes its own, as MLA does from transformer_config."""
        return None

    @property
    def output_is_embedding(self) -> bool:
        """Whether the output layer shares the embedding's weight."""
        return False

    def problems(self) -> list[str]:
        """Reasons why this model can't be built in any layout: `key: what, the value, the remedy`."""
        return []

    # Conversion from and to Hugging Face; a family without hf_architecture has none.

    hf_architecture: ClassVar[str | None] = None
    """The class that config.json names, such as LlamaForCausalLM."""
    hf_model_type: ClassVar[str] = ""
    """config.json's model_type."""
    hf_recomputed: ClassVar[tuple[str, ...]] = ()
    """Name suffixes of tensors in old files that the model computes itself, such as rotary frequencies."""
    hf_training_only: ClassVar[tuple[str, ...]] = ("max_position_embeddings", "init_std", "megatron")
    """Fields on which no weight and no logit depends, so that a run may change them."""

    @classmethod
    def from_hf(cls, config: HfConfig) -> Self:
        """The shape that a config.json describes. Raises ConfigError with all that can't be converted."""
        raise NotImplementedError(f"{cls.__name__}.from_hf")

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json: the keys that decide names, shapes and logits."""
        raise NotImplementedError(f"{type(self).__name__}.to_hf")

    def weight_rows(self) -> list[Row]:
        """The table of weights."""
        raise NotImplementedError(f"{type(self).__name__}.weight_rows")

    def copies(self) -> list[Copy]:
        """Tensors in the files that repeat another one."""
        return []

    def weights(self) -> list[Weight]:
        """Every weight of the model: the table with layer and expert numbers filled in."""
        return list(expand(self.weight_rows(), num_layers=self.shape().num_layers))
