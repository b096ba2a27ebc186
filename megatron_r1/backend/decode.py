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
from typing import Any

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
    """rollout.Decoder over the parameters of a whole model. A cache lives as long as the decoder."""

    def __init__(self, chunks: Sequence[GPTModel], *, length: int) -> None:
        """length: the most tokens of a row, padding included."""
        (model,) = chunks
        self.length, self.used = length, 0
        self.embedding = model.embedding.word_embeddings.weight
        shared = model.share_embeddings_and_output_weights
        self.output: Any = model.shared_embedding_or_output_weight() if shared else model.output_layer.weight
        self.layers = [_Layer(layer, model, length) for layer in model.decoder.layers]
        self.final_norm: Any = model.decoder.final_layernorm
        self.pads: Tensor | None = None  # [B] of padding on the left; None: no row has any
        self.cache: list[Tensor] = []  # a layer: [B, ..., length, width]

    def prefill(self, tokens: Tensor, pads: Tensor) -> Tensor:
        """tokens: [B, W] prompts, padded on the left by pads [B]. Returns [B, V] logits of the last token."""
        self.pads, self.used = pads if pads.any() else None, tokens.shape[1]
        self.cache = [layer.attention.new_cache(tokens.shape[0], self.used) for layer in self.layers]
        return self._feed(tokens, Position.of_prompts(self.pads, width=self.used))

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens: [B], the next of each row. Returns [B, V] logits."""
        position = Position.of_token(self.pads, at=self.used)
        self.used += 1
        return self._feed(tokens[:, None], position)

    def spread(self, rows: Tensor) -> None:
        """Row i of the batch becomes a copy of the former row rows[i]; the cache gets its full length."""
        self.pads = None if self.pads is None else self.pads[rows]
        for i, (layer, old) in enumerate(zip(self.layers, self.cache, strict=True)):
            new = layer.attention.new_cache(len(rows), self.length)
            new[..., : self.used, :] = old.index_select(0, rows)
            self.cache[i] = new

    def keep(self, rows: Tensor) -> None:
        """Row i becomes the former row rows[i] >= i; the rows behind leave. Only what moves is copied."""
        self.pads = None if self.pads is None else self.pads[rows]
        to = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for i, cache in enumerate(self.cache):
            cache[to, ..., : self.used, :] = cache[rows[to], ..., : self.used, :]
            self.cache[i] = cache[: len(rows)]

    def _feed(self, tokens: Tensor, position: Position) -> Tensor:
        hidden = F.embedding(tokens.t().flatten(), self.embedding)  # [W * B, h]
        for layer, cache in zip(self.layers, self.cache, strict=True):
            hidden = layer(hidden, cache, position)
        return F.linear(self.final_norm(hidden[-len(tokens) :]), self.output)


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
