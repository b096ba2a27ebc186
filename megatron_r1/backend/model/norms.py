"""RMSNorm for the local spec.

Megatron's WrappedTorchNorm (transformer/torch_norm.py) refuses sequence parallelism; torch's norm works
with it as long as its weight is marked, so that finalize_model_grads sums its gradient over tensor ranks.
"""

from typing import Any

import torch
from megatron.core.transformer import TransformerConfig

from megatron_r1.models.deepseek_v3 import LATENT_EPSILON


class LocalRMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm, built as Megatron builds norms."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


class LatentRMSNorm(LocalRMSNorm):
    """The norm of MLA's latents: its epsilon is DeepSeek's constant, not the configuration's."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(config, hidden_size, eps=LATENT_EPSILON)
