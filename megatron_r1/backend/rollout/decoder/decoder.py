"""The built-in decoder: a forward pass with KV caches over the live weights, about twenty operators a layer.

Through Megatron's modules a token costs 1,600 operators on a toy MoE, so dispatch dominates. Here every layer
reads the parameters of the modules that train; nothing is copied, so no weight can be stale. Prefill uses
SDPA, decoding uses batched matrix products against cached keys or MLA latents (attention.py), and experts
compute on tokens sorted by expert (mlp.py), across ranks too (expert_parallel.py).

Each tensor rank computes its heads and its part of each MLP and all-reduces the sum; pipeline ranks pass the
hidden states on. Weights are multiplied as they are stored, in bf16 even where training computes in FP8,
unless the rollout's own FP8 is on, which rounds a copy of them once a rollout (linear.py).

The routing is Megatron's own function; `is_lean` refuses models that need anything not written here, and
these decode through Megatron's modules (module_decoder.py). tests/distributed/rollout/test_decoder.py
compares the tokens and log-probs of both decoders and of the training forward.
"""

# B rows, W tokens fed a row in Megatron's order [W, B], h hidden, V vocabulary

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from torch import Tensor

from megatron_r1.backend.model.vocabulary import PADDING_LOGIT
from megatron_r1.backend.rollout.decoder.attention import GroupedQuery, Latent, Position, norm_before
from megatron_r1.backend.rollout.decoder.mlp import feed_forward
from megatron_r1.backend.rollout.decoder.pipeline import through_pipeline
from megatron_r1.backend.rollout.fp8 import RolloutPrecision

# The TransformerConfig values that this code assumes. Only model.megatron (config overrides) can set others.
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
IMPLEMENTATIONS = ("local", "transformer_engine")
ROUTED_BY_TOP_K = ("none", "aux_loss", "seq_aux_loss", "global_aux_loss")


def is_lean(chunks: Sequence[GPTModel]) -> bool:
    """Whether the built-in decoder can compute this model."""
    config = chunks[0].config
    if config.transformer_impl not in IMPLEMENTATIONS:
        return False
    if config.moe_router_load_balancing_type not in ROUTED_BY_TOP_K:
        return False
    if not config.multi_latent_attention and config.num_query_groups < config.tensor_model_parallel_size:
        return False  # tensor ranks share a head
    return all(getattr(config, name) == value for name, value in PLAIN.items())


class LeanDecoder:
    """batch_scheduler.Decoder over the parameters of this rank's layers; every slot has its own cache."""

    pads_left: ClassVar = False
    refills: ClassVar = True
    width: ClassVar = 1

    def __init__(
        self,
        chunks: Sequence[GPTModel],
        *,
        rows: int,
        length: int,
        precision: RolloutPrecision | None = None,
    ) -> None:
        """precision: of the matrix products; None: the weights as they are stored."""
        length += self.width - 1
        self.capacity, self.length, self.count = rows, length, 0
        self.config, self.vocab_size = chunks[0].config, chunks[0].vocab_size
        self.chunks = [_Chunk(chunk, length, precision) for chunk in chunks]
        self.attentions = [layer.attention for chunk in self.chunks for layer in chunk.layers]
        # one a layer: [capacity, ..., length, width] of the batch, [U, ..., W, width] of the newest prefill.
        # All values must be finite: a mask doesn't remove a NaN from a product.
        self.caches: list[Tensor] = []
        self.newest: list[Tensor] = []

    def prefill(self, tokens: Tensor, positions: Tensor, *, max_tokens: int) -> Tensor:
        count, width = tokens.shape
        self.newest = [attention.new_cache(count, width) for attention in self.attentions]
        ends = positions.argmax(1) * count + torch.arange(count, device=positions.device)
        return self._feed(tokens, self.newest, Position.of_prompts(width, max_tokens=max_tokens), ends)

    def enter(self, prompts: Tensor) -> None:
        if not self.caches:
            self.caches = [attention.new_cache(self.capacity, self.length) for attention in self.attentions]
        first, self.count = self.count, self.count + len(prompts)
        for cache, new in zip(self.caches, self.newest, strict=True):
            cache[first : self.count, ..., : new.shape[-2], :] = new.index_select(0, prompts)

    def decode(self, tokens: Tensor, positions: Sequence[int], *, max_tokens: int) -> Tensor:
        caches = [cache[: self.count] for cache in self.caches]
        position = Position.of_tokens(
            positions, width=self.width, max_tokens=max_tokens, device=tokens.device
        )
        logits = self._feed(tokens, caches, position)
        return logits.view(self.width, self.count, -1).transpose(0, 1)

    def keep(self, rows: Tensor) -> None:
        self.count = len(rows)
        to = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for cache in self.caches:
            cache[to] = cache[rows[to]]

    def _feed(
        self, tokens: Tensor, caches: list[Tensor], position: Position, ends: Tensor | None = None
    ) -> Tensor:
        """tokens: [B, W]. Returns [W * B, V] logits, or with `ends`, indices into W * B, only theirs: [B,
        V]."""
        count, width = tokens.shape
        remaining = iter(caches)
        stages = [
            partial(chunk, tokens, [next(remaining) for _ in chunk.layers], position, ends)
            for chunk in self.chunks
        ]
        return through_pipeline(
            stages,
            hidden=(width * count, self.config.hidden_size),
            dtype=self.config.params_dtype,
            logits=(width * count if ends is None else count, self.vocab_size),
        )


class _Chunk:
    """Consecutive layers of the model, with the embedding before the first and the lm_head after the last."""

    def __init__(self, model: GPTModel, length: int, precision: RolloutPrecision | None) -> None:
        self.layers = [Layer(layer, model, length, precision) for layer in model.decoder.layers]
        self.embedding: Any = model.embedding.word_embeddings if model.pre_process else None
        self.final_norm: Any = None
        self.real_rows: int = model.real_rows  # type: ignore[assignment]
        self.states: Tensor | None = None  # [W * B, h], the newest inputs of the lm_head
        if model.post_process:
            self.final_norm = model.decoder.final_layernorm
            self.output = output_weight(model)

    def __call__(
        self,
        tokens: Tensor,
        caches: Sequence[Tensor],
        position: Position,
        ends: Tensor | None,
        received: Tensor | None,
    ) -> Tensor:
        """received: [W * B, h]; None on the first chunk. Returns hidden states of that shape, or logits."""
        hidden = self.embedding(tokens.t().flatten()) if received is None else received
        for layer, cache in zip(self.layers, caches, strict=True):
            hidden = layer(hidden, cache, position)
        if self.final_norm is None:
            return hidden
        self.states = states = self.final_norm(hidden)
        return head(states if ends is None else states[ends], self.output, self.real_rows)


def output_weight(model: GPTModel) -> Tensor:
    shared = model.share_embeddings_and_output_weights
    return model.shared_embedding_or_output_weight() if shared else model.output_layer.weight


def head(states: Tensor, weight: Tensor, real_rows: int) -> Tensor:
    """[T, h] -> [T, V] on every tensor rank; rows of `weight` from `real_rows` on pad the vocabulary."""
    logits = F.linear(states, weight)
    logits[:, real_rows:] = PADDING_LOGIT
    return gather_from_tensor_model_parallel_region(logits)


class Layer:
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, layer: Any, model: Any, length: int, precision: RolloutPrecision | None) -> None:
        attention, mlp = layer.self_attention, layer.mlp
        self.attention_norm, self.mlp_norm = layer.input_layernorm, layer.pre_mlp_layernorm
        if isinstance(attention, MLASelfAttention):
            self.attention = Latent(attention, length=length, precision=precision)
        else:
            rotary = model.rotary_pos_emb
            self.attention = GroupedQuery(attention, rotary, length=length, precision=precision)
            self.attention_norm = norm_before(attention.linear_qkv, self.attention_norm)
        if not isinstance(mlp, MoELayer):
            self.mlp_norm = norm_before(mlp.linear_fc1, self.mlp_norm)
        self.mlp = feed_forward(mlp, precision)

    def __call__(self, hidden: Tensor, cache: Tensor, position: Position) -> Tensor:
        hidden = self.attention(hidden, self.attention_norm(hidden), cache, position)
        return self.mlp(hidden, self.mlp_norm(hidden), position.max_tokens)
