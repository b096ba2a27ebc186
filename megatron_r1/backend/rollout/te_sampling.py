"""Prepare Transformer Engine's modules for sampling; a no-op where none is in use.

Their attention ignores a mask under "causal", so a left-padded batch would attend to its padding. Their FP8
linears require rows in blocks, scale activations by the whole batch, and cache weights quantised in the last
micro-batch of training. So the rollout computes in the parameters' own bf16, with torch's SDPA.

Training in FP8 then differs from the rollout by FP8's rounding: keep the rollout's log-probs in the loss
(truncated importance sampling), and set gates.drift accordingly. None of this has run on a GPU yet.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.multi_latent_attention import MLASelfAttention

from megatron_r1.backend.model.attention import LocalCoreAttention


@contextmanager
def engine_can_sample(chunks: Sequence[GPTModel]) -> Iterator[None]:
    """Within: masked attention and no FP8. Restored after errors too."""
    config = chunks[0].config
    recipe, config.fp8 = config.fp8, None
    layers: list[Any] = [layer.self_attention for chunk in chunks for layer in chunk.decoder.layers]
    swapped = {a: a.core_attention for a in layers if not isinstance(a.core_attention, LocalCoreAttention)}
    for attention in swapped:
        attention.core_attention = _masked(attention)
    try:
        yield
    finally:
        config.fp8 = recipe
        for attention, own in swapped.items():
            attention.core_attention = own


def _masked(attention: Any) -> LocalCoreAttention:
    latent = isinstance(attention, MLASelfAttention)
    return LocalCoreAttention(
        attention.config,
        attention.layer_number,
        AttnMaskType.causal,
        "self",
        softmax_scale=attention.softmax_scale if latent else attention.config.softmax_scale,
        pg_collection=attention.pg_collection,
    )
