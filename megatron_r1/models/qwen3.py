"""Qwen3, dense (arXiv 2505.09388): no biases, a norm on every query and key head."""

from typing import ClassVar, Literal

from megatron_r1.models.dense import DenseConfig
from megatron_r1.models.shape import Positive


class Qwen3(DenseConfig):
    """The shape of a Qwen3 model."""

    qk_norm: ClassVar[bool] = True
    hf_architecture: ClassVar[str | None] = "Qwen3ForCausalLM"
    hf_model_type: ClassVar[str] = "qwen3"
    hf_head_dim: ClassVar[int | None] = 128
    family: Literal["qwen3"]
    rope_theta: Positive = 1e6
    """Base of the rotary frequencies."""


FAMILY = Qwen3
