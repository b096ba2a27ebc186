"""What Transformer Engine's modules need before they can sample; nothing where none of them is in use.

Their attention ignores a mask under "causal" (a left-padded batch would look at its pads), and their FP8
linears want rows in blocks, round the activations by what else is in the batch, and keep quantised weights
from the last micro-batch of training. So the rollout computes in the parameters' own bf16, with torch's SDPA.

Training in FP8 then differs from the rollout by FP8's rounding: keep the rollout's log-probs in the loss
(truncated importance sampling), and set gates.drift for it. None of this has run on a GPU yet.
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
    """Within: masked attention and no FP8. Restored whatever happens."""
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
