"""Qwen3, dense (arXiv 2505.09388): no biases, a norm on every query and key head."""

from typing import ClassVar, Literal

from megatron_r1.models.dense import DenseConfig


class Qwen3(DenseConfig):
    """The shape of a Qwen3 model."""

    qk_norm: ClassVar[bool] = True
    family: Literal["qwen3"]
    rope_theta: float = 1e6
    """Base of the rotary frequencies."""


FAMILY = Qwen3
