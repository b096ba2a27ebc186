"""A lean decoder: the live weights in about twenty operators a layer.

Through Megatron's modules a token costs 1,600 operators on a toy MoE: the attention is rows of one query, the
experts go through the dispatcher of training, and the arithmetic drowns in dispatch. Here every layer reads
the parameters of the very modules that train (nothing is copied, so nothing can be stale) and does only what
inference needs: prompts through SDPA, single tokens as batched matrix products against a cache that holds
keys after RoPE, or MLA's latents (decode_attention.py); tokens sorted by expert (decode_mlp.py).

What holds it equal to the modules: the routing is Megatron's own function, `is_lean` lets only what is
written here through, and tests/backend/test_decode.py compares both ways token by token and log-prob by
log-prob, against the training forward too. Everything else samples through the modules (decode_modules.py).
"""

# B rows, W tokens fed a row (1 after the prompt) in Megatron's order [W, B], h hidden, V vocabulary

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.backend.attention import LocalMLASelfAttention
from megatron_r1.backend.decode_attention import GroupedQuery, Latent, Position
from megatron_r1.backend.decode_mlp import feed_forward

# What the layers here take for granted. Families never ask for anything else; the escape hatch can.
PLAIN = {
    "activation_func": F.silu,
    "activation_func_clamp_value": None,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_output_gate": False,
    "batch_invariant_mode": False,
    "fp32_residual_connection": False,
    "gated_linear_unit": True,
    "glu_linear_offset": 0.0,
    "heterogeneous_block_specs": False,
    "moe_apply_probs_on_input": False,
    "moe_expert_capacity_factor": None,
    "moe_input_jitter_eps": None,
    "moe_latent_size": None,
    "moe_router_force_biased": None,
    "moe_router_force_load_balancing": False,
    "moe_shared_expert_gate": False,
    "no_rope_freq": None,
    "qk_l2_norm": False,
    "rotary_interleaved": False,
    "softmax_scale": None,
    "softmax_type": "vanilla",
    "use_mup": False,
    "window_size": None,
}
ROUTED_BY_TOP_K = ("none", "aux_loss", "seq_aux_loss", "global_aux_loss")


def is_lean(chunks: Sequence[GPTModel]) -> bool:
    """Whether this rank holds a whole model, of layers that the lean decoder knows."""
    config = chunks[0].config
    if config.tensor_model_parallel_size > 1 or config.pipeline_model_parallel_size > 1:
        return False
    if config.transformer_impl != "local" or config.moe_router_load_balancing_type not in ROUTED_BY_TOP_K:
        return False
    return all(getattr(config, name) == value for name, value in PLAIN.items())


class LeanDecoder:
    """flight.Decoder over the parameters of a whole model. Every row stands at its own place in the cache."""

    pads_left: ClassVar = False
    refills: ClassVar = True

    def __init__(self, chunks: Sequence[GPTModel], *, rows: int, length: int) -> None:
        (model,) = chunks
        self.capacity, self.length, self.count = rows, length, 0
        self.embedding = model.embedding.word_embeddings.weight
        shared = model.share_embeddings_and_output_weights
        self.output: Any = model.shared_embedding_or_output_weight() if shared else model.output_layer.weight
        self.layers = [_Layer(layer, model, length) for layer in model.decoder.layers]
        self.final_norm: Any = model.decoder.final_layernorm
        # a layer: [capacity, ..., length, width] of the batch, [U, ..., W, width] of the newest prompts; all
        # of it finite, since a mask doesn't take a NaN out of a product
        self.caches: list[Tensor] = []
        self.newest: list[Tensor] = []

    def prefill(self, tokens: Tensor, places: Tensor) -> Tensor:
        count, width = tokens.shape
        self.newest = [layer.attention.new_cache(count, width) for layer in self.layers]
        hidden = self._through_layers(tokens, self.newest, Position.of_prompts(width))
        ends = places.argmax(1) * count + torch.arange(count, device=places.device)
        return self._logits(hidden[ends])

    def enter(self, prompts: Tensor) -> None:
        if not self.caches:
            self.caches = [layer.attention.new_cache(self.capacity, self.length) for layer in self.layers]
        first, self.count = self.count, self.count + len(prompts)
        for cache, new in zip(self.caches, self.newest, strict=True):
            cache[first : self.count, ..., : new.shape[-2], :] = new.index_select(0, prompts)

    def decode(self, tokens: Tensor, places: Sequence[int]) -> Tensor:
        caches = [cache[: self.count] for cache in self.caches]
        position = Position.of_tokens(places, device=tokens.device)
        return self._logits(self._through_layers(tokens[:, None], caches, position))

    def keep(self, rows: Tensor) -> None:
        self.count = len(rows)
        to = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for cache in self.caches:
            cache[to] = cache[rows[to]]

    def _through_layers(self, tokens: Tensor, caches: Sequence[Tensor], position: Position) -> Tensor:
        hidden = F.embedding(tokens.t().flatten(), self.embedding)  # [W * B, h]
        for layer, cache in zip(self.layers, caches, strict=True):
            hidden = layer(hidden, cache, position)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(self.final_norm(hidden), self.output)


class _Layer:
    """Pre-norm attention and feed-forward network, each added to the stream."""

    def __init__(self, layer: Any, model: Any, length: int) -> None:
        if isinstance(layer.self_attention, LocalMLASelfAttention):
            self.attention = Latent(layer.self_attention, length=length)
        else:
            self.attention = GroupedQuery(layer.self_attention, model.rotary_pos_emb, length=length)
        self.attention_norm, self.mlp_norm = layer.input_layernorm, layer.pre_mlp_layernorm
        self.mlp = feed_forward(layer.mlp)

    def __call__(self, hidden: Tensor, cache: Tensor, position: Position) -> Tensor:
        hidden = self.attention(hidden, self.attention_norm(hidden), cache, position)
        return self.mlp(hidden, self.mlp_norm(hidden))
