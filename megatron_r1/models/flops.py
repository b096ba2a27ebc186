"""Model FLOPs of a training step, as MFU counts them.

Two operations per weight and token in the forward pass, twice that in the backward pass, and attention's two
products over the half of the context that a causal mask leaves. Norms, RoPE, softmax, top-k and recomputation
are not counted. Source: PaLM, arXiv 2204.02311, appendix B; MLA and experts: DeepSeek-V3, arXiv 2412.19437,
section 2.1.
"""

from dataclasses import dataclass
from typing import Any

from megatron_r1.models.shape import FamilyConfig

PASSES = 3  # one forward, and two backward: gradients of the input and of the weight


@dataclass(frozen=True, slots=True)
class TokenCost:
    """The work of one token."""

    weights: int  # that it is multiplied with
    attention: int  # sum over the layers of heads * (key width + value width)

    def training_flops(self, sequence_length: int) -> float:
        """FLOPs of a training step per token, at the mean position of a sequence of this length."""
        return PASSES * (2 * self.weights + 2 * self.attention * sequence_length / 2)


def token_cost(family: FamilyConfig, *, mtp: bool = False) -> TokenCost:
    """The cost of one token. mtp: with MTP, each depth a layer, a projection of two states and the head."""
    config = family.transformer_config()
    hidden = config["hidden_size"]
    has_experts = config.get("moe_layer_freq", [0] * config["num_layers"])
    depths = (config.get("mtp_num_layers") or 0) if mtp else 0
    layers = [*has_experts, *[has_experts[-1]] * depths]
    heads = hidden * family.shape().vocab_size * (1 + depths)
    weights = sum(_attention_weights(config) + _mlp_weights(config, moe=bool(moe)) for moe in layers)
    key, value = _head_widths(config)
    attention = len(layers) * config["num_attention_heads"] * (key + value)
    return TokenCost(weights + heads + depths * 2 * hidden * hidden, attention)


def _head_widths(config: dict[str, Any]) -> tuple[int, int]:
    """(key width, value width) of a head."""
    if config.get("multi_latent_attention"):
        return config["qk_head_dim"] + config["qk_pos_emb_head_dim"], config["v_head_dim"]
    return config["kv_channels"], config["kv_channels"]


def _attention_weights(config: dict[str, Any]) -> int:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    key, value = _head_widths(config)
    if not config.get("multi_latent_attention"):
        return hidden * key * (2 * heads + 2 * config["num_query_groups"])
    latent, rotated = config["kv_lora_rank"], config["qk_pos_emb_head_dim"]
    low = config["q_lora_rank"]
    query = low * (hidden + heads * key) if low else hidden * heads * key
    keys_and_values = hidden * (latent + rotated) + latent * heads * (config["qk_head_dim"] + value)
    return query + keys_and_values + heads * value * hidden


def _mlp_weights(config: dict[str, Any], *, moe: bool) -> int:
    """Gate, up and down; with experts, those of the top-k and the shared ones, and the router."""
    hidden = config["hidden_size"]
    if not moe:
        return 3 * hidden * config["ffn_hidden_size"]
    shared = config.get("moe_shared_expert_intermediate_size") or 0
    inner = config["moe_router_topk"] * config["moe_ffn_hidden_size"] + shared
    return 3 * hidden * inner + hidden * config["num_moe_experts"]
