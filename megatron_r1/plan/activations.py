"""Activation memory: bytes that the forward pass saves for the backward pass, per layer and token.

Counted from the tensors that autograd saves in backend/'s local modules, which tests/plan compares with real
runs; modelled for Transformer Engine, whose norms save input and output (ours: two fp32 copies) and whose
SwiGLU saves only its input and output. Experts are assumed to be evenly loaded.
"""

# a: bytes of an activation element

from dataclasses import dataclass
from typing import Any

FP32, INT64 = 4, 8


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes per token, over all tensor ranks: of a dense layer, of a layer with experts, of the head."""

    dense: float
    experts: float
    head: float  # final norm and the softmax of the logits
    mtp: float  # one MTP depth, with its head


def kept(
    config: dict[str, Any],
    *,
    vocab_size: int,
    dtype_bytes: int,
    recompute: str,
    engine: bool,
    context: int = 1,
) -> Kept:
    """Saved bytes by kind of layer.

    config: the family's transformer_config(). recompute: none | selective | full. engine: Transformer
    Engine's modules. context: ranks that share a sequence; in the local attention each holds the whole
    sequence, in the engine's ring attention only its own part.
    """
    hidden = config["hidden_size"]
    head = _norm(hidden, dtype_bytes, engine) + FP32 * vocab_size
    if recompute == "full":  # only the layer's input
        layer = float(dtype_bytes * hidden)
        return Kept(layer, layer, head, layer + 2 * dtype_bytes * hidden + head)
    copies = 1 if engine else context
    around = _attention(config, dtype_bytes, engine, inner=recompute != "selective", copies=copies)
    around += 2 * _norm(hidden, dtype_bytes, engine)
    dense = around + _swiglu(config["ffn_hidden_size"], dtype_bytes, engine)
    experts = around + _experts(config, dtype_bytes, engine) if config.get("num_moe_experts") else 0.0
    # two norms, and the projection of both, whose input is twice as wide
    merge = 2 * _norm(hidden, dtype_bytes, engine) + 2 * dtype_bytes * hidden
    return Kept(dense, experts, head, (experts or dense) + merge + head)


def working_layer(config: dict[str, Any], *, dtype_bytes: int, engine: bool) -> float:
    """Bytes per token of the largest layer while it computes, as full recomputation needs again."""
    whole = kept(config, vocab_size=0, dtype_bytes=dtype_bytes, recompute="none", engine=engine)
    return max(whole.dense, whole.experts)


def _norm(width: float, a: int, engine: bool) -> float:
    """Input and output; the local norm saves its input and the normalised input in fp32."""
    if engine:
        return 2 * a * width + FP32
    return 2 * FP32 * width + a * width + FP32


def _swiglu(width: float, a: int, engine: bool) -> float:
    """Gate, up and their product; without fusion also both halves of the input and the activated gate."""
    return (3 if engine else 5) * a * width


def _attention(config: dict[str, Any], a: int, engine: bool, *, inner: bool, copies: int) -> float:
    """inner: with what the attention product itself saves (its output and the softmax's sum).

    copies: how many times queries, keys, values and outputs are held.
    """
    if config.get("multi_latent_attention"):
        return _latent_attention(config, a, engine, inner=inner, copies=copies)
    heads, groups, width = config["num_attention_heads"], config["num_query_groups"], config["kv_channels"]
    projected = a * width * (heads + 2 * groups)
    norms = _norm(width * (heads + groups), a, engine) if config.get("qk_layernorm") else 0
    rotated = 0 if engine else 2 * a * width * groups
    output = a * heads * width * (1 if engine else 2)
    again = (copies - 1) * a * width * (2 * heads + 2 * groups)
    return projected + norms + rotated + output + again + (FP32 * heads * copies if inner else 0)


def _latent_attention(config: dict[str, Any], a: int, engine: bool, *, inner: bool, copies: int) -> float:
    heads, low, latent = config["num_attention_heads"], config["q_lora_rank"] or 0, config["kv_lora_rank"]
    rotated, plain, value = config["qk_pos_emb_head_dim"], config["qk_head_dim"], config["v_head_dim"]
    key = plain + rotated
    latents = _norm(low, a, engine) * bool(low) + _norm(latent, a, engine) + a * rotated
    queries_and_keys = 2 * a * heads * key
    if engine:  # values are a view of the up-projection's output, all of which is kept
        values, output = a * heads * (plain + value), a * heads * value
        return latents + queries_and_keys + values + (output + FP32 * heads if inner else output)
    # torch's SDPA requires one width: values and outputs are as wide as keys
    inside = a * heads * (2 * key) + FP32 * heads if inner else a * heads * value
    return latents + copies * (queries_and_keys + inside) + 3 * a * rotated + a * heads * value


def _experts(config: dict[str, Any], a: int, engine: bool) -> float:
    top, width = config["moe_router_topk"], config["moe_ffn_hidden_size"]
    count, hidden = config["num_moe_experts"], config["hidden_size"]
    shared = _swiglu(config.get("moe_shared_expert_intermediate_size") or 0, a, engine)
    # the routing probabilities multiply the activation; unfused, that is one more copy
    routed = top * (a * hidden + (3 if engine else 6) * a * width)
    groups = config.get("moe_router_num_groups") or 0
    router = count * (3 * FP32 + INT64 + 1) + INT64 * groups + top * (4 * INT64 + 3 * FP32)
    return shared + routed + router
