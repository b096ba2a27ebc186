"""Llama 3.x (arXiv 2407.21783): grouped-query attention, RoPE rescaled for long contexts from 3.1 on."""

import math
from typing import Any, ClassVar, Literal

from megatron_r1.models.dense import DenseConfig
from megatron_r1.models.hf_config import HfConfig
from megatron_r1.models.shape import Positions, Positive, Rope
from megatron_r1.section import Section


class Llama3Rope(Section):
    """Llama 3.1's rule: low frequencies are divided by the factor, high ones stay, with a ramp between."""

    factor: Positive
    """Factor by which the context is extended."""
    low_freq_factor: Positive = 1.0
    """Wavelengths above original_max_position_embeddings / this are rescaled in full."""
    high_freq_factor: Positive = 4.0
    """Wavelengths below original_max_position_embeddings / this stay unchanged."""
    original_max_position_embeddings: Positions = 8192
    """The context length before the extension."""

    def rescale(self, frequencies: list[float]) -> list[float]:
        """Inverse frequencies [head_dim / 2] -> rescaled ones."""
        return [self._rescale_one(frequency) for frequency in frequencies]

    def _rescale_one(self, frequency: float) -> float:
        wavelength = 2 * math.pi / frequency
        original = self.original_max_position_embeddings
        if wavelength < original / self.high_freq_factor:
            return frequency
        if wavelength > original / self.low_freq_factor:
            return frequency / self.factor
        smooth = (original / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        return (1 - smooth) * frequency / self.factor + smooth * frequency


class Llama(DenseConfig):
    """The shape of a Llama model."""

    hf_architecture: ClassVar[str | None] = "LlamaForCausalLM"
    hf_model_type: ClassVar[str] = "llama"
    family: Literal["llama"]
    rope_theta: Positive = 5e5
    """Base of the rotary frequencies."""
    norm_epsilon: Positive = 1e-5
    """Of every RMSNorm."""
    rope_scaling: Llama3Rope | None = None
    """RoPE rescaling of Llama 3.1 to 3.3; null for 3.0."""

    def rope(self) -> Rope:
        scaling = self.rope_scaling
        return Rope(self.rope_theta, rescale=None if scaling is None else scaling.rescale)

    @classmethod
    def _scaling(cls, config: HfConfig, scaling: dict[str, Any] | None) -> dict[str, Any]:
        if scaling is None:
            return {}
        if scaling["type"] != "llama3":
            config.refuse(f"rope_scaling of type {scaling['type']!r}: only llama3 can be converted")
            return {}
        numbers = HfConfig(scaling, config.refusals)
        if scaling.get("low_freq_factor") == scaling.get("high_freq_factor") is not None:
            config.refuse("rope_scaling.low_freq_factor equals high_freq_factor: no ramp lies between them")
        return {
            "rope_scaling": Llama3Rope(
                factor=numbers.positive("factor"),
                low_freq_factor=numbers.positive("low_freq_factor"),
                high_freq_factor=numbers.positive("high_freq_factor"),
                original_max_position_embeddings=numbers.size("original_max_position_embeddings"),
            )
        }

    def _scaling_to_hf(self) -> dict[str, Any] | None:
        return None if self.rope_scaling is None else {"type": "llama3", **self.rope_scaling.model_dump()}


FAMILY = Llama
