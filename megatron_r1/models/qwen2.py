"""Qwen2 and Qwen2.5 (arXiv 2407.10671): grouped-query attention with biases on query, key and value."""

from typing import ClassVar, Literal

from megatron_r1.models.dense import DenseConfig
from megatron_r1.models.shape import Positive


class Qwen2(DenseConfig):
    """The shape of a Qwen2 model."""

    qkv_bias: ClassVar[bool] = True
    hf_architecture: ClassVar[str | None] = "Qwen2ForCausalLM"
    hf_model_type: ClassVar[str] = "qwen2"
    family: Literal["qwen2"]
    rope_theta: Positive = 1e6
    """Base of the rotary frequencies."""


FAMILY = Qwen2
