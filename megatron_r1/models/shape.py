"""What a model family must tell about itself: the sizes that layouts and plans count with.

No torch and no Megatron here: checking a configuration takes no longer than reading it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from megatron_r1.models.hf_config import HfConfig
from megatron_r1.models.weights import Copy, Row, Weight, expand
from megatron_r1.section import Section


def divisors(size: int) -> str:
    """For the reader of a message to choose from: a few of the largest."""
    found = [n for n in range(1, size + 1) if size % n == 0]
    return " or ".join(map(str, found[-6:]))


def expert_problems(*, num_experts: int, experts_per_token: int) -> list[str]:
    """Of every router."""
    if experts_per_token <= num_experts:
        return []
    return [f"experts_per_token: {experts_per_token}, and there are num_experts={num_experts}; lower it"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a model that a layout divides. A size of 0: the model has no such part."""

    num_layers: int
    num_attention_heads: int
    num_query_groups: int  # key/value heads; with MLA the same as num_attention_heads
    vocab_size: int
    ffn_hidden_size: int = 0  # of a dense layer
    num_experts: int = 0  # 0: a dense model
    moe_ffn_hidden_size: int = 0  # of one routed expert
    num_dense_layers: int = 0  # before the first layer with experts
    num_mtp_layers: int = 0
    cut_by_tensor: Mapping[str, int] = field(default_factory=dict)  # more sizes, by their keys


# Far above any model that there is: what is larger is a mistake, and a plan of it would take all memory.
Layers = Annotated[int, Field(ge=1, le=10_000)]
Width = Annotated[int, Field(ge=1, le=1 << 20)]
Vocabulary = Annotated[int, Field(ge=1, le=1 << 24)]
Experts = Annotated[int, Field(ge=1, le=1 << 16)]
Positions = Annotated[int, Field(ge=1, le=1 << 30)]
Positive = Annotated[float, Field(ge=1e-30, le=1e30)]  # within float32
NonNegative = Annotated[float, Field(ge=0, le=1e6)]


class FamilyConfig(Section):
    """Base of every model family's section; `family` is narrowed to the family's name."""

    family: str
    """Which model family: the name of a file's FAMILY in megatron_r1/models."""

    max_position_embeddings: Positions = 4096
    """The longest sequence."""

    megatron: dict[str, Any] = Field(default_factory=dict)
    """Fields of megatron-core's TransformerConfig, the one escape hatch; checked against the real fields."""

    def shape(self) -> ModelShape:
        raise NotImplementedError(f"{type(self).__name__}.shape")

    def transformer_config(self) -> dict[str, Any]:
        """Arguments of megatron-core's TransformerConfig, `megatron` included."""
        raise NotImplementedError(f"{type(self).__name__}.transformer_config")

    def problems(self) -> list[str]:
        """What keeps this model from being built in any layout: `key: what, the value, the remedy`."""
        return []

    # The other side: Hugging Face's configuration and files. A family without an architecture has neither.

    hf_architecture: ClassVar[str | None] = None
    """The class that config.json names, such as LlamaForCausalLM."""
    hf_model_type: ClassVar[str] = ""
    """config.json's model_type."""
    hf_recomputed: ClassVar[tuple[str, ...]] = ()
    """Ends of names in old files that hold what the model computes itself, such as rotary frequencies."""
    hf_training_only: ClassVar[tuple[str, ...]] = ("max_position_embeddings", "init_std", "megatron")
    """Fields that no weight and no logit depends on: a run may set them as it likes."""

    @classmethod
    def from_hf(cls, config: HfConfig) -> Self:
        """The shape that a config.json describes. Raises ConfigError with all that can't be converted."""
        raise NotImplementedError(f"{cls.__name__}.from_hf")

    def to_hf(self) -> dict[str, Any]:
        """What config.json says of this shape: the keys that decide names, shapes and logits."""
        raise NotImplementedError(f"{type(self).__name__}.to_hf")

    def weight_rows(self) -> list[Row]:
        """The table of weights."""
        raise NotImplementedError(f"{type(self).__name__}.weight_rows")

    def copies(self) -> list[Copy]:
        """Tensors of the files that repeat another one."""
        return []

    def weights(self) -> list[Weight]:
        """The table with its numbers filled in: every weight of the model."""
        return list(expand(self.weight_rows(), num_layers=self.shape().num_layers))
