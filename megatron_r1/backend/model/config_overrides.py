"""Config overrides (`model.megatron`) that are refused: Megatron would accept them and compute wrong results.

Source: megatron-core 0.19.2's code; the wrong gradients of batched p2p were measured.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from megatron_r1.errors import ConfigError

_BY_LAYOUT = "layout decides it"
_P2P = "layout.virtual_pipeline decides it: an interleaved pipeline over batched p2p computes wrong gradients"
_BY_TRAINER = "only Megatron's own training script sets up what it needs"

_BY_PACK = "its result would depend on what shares a pack, so on the layout"
_RANDOM = "the log-probs of training would be those of another network than the one that was sampled"
_BENCHMARK = "it is for benchmarks: tokens would not go where the router sends them"

REFUSED = {
    "delay_wgrad_compute": f"{_BY_TRAINER}, a DistributedDataParallel that waits for late gradients",
    "batch_p2p_comm": _P2P,
    "overlap_p2p_comm": _P2P,
    "tp_comm_overlap": f"{_BY_TRAINER}, Transformer Engine's user buffers",
    "overlap_dispatch_backward_with_experts_wgrad": "it is for Megatron's FSDP, which is not used here",
    "defer_embedding_wgrad_compute": "it needs gradient_accumulation_fusion, which needs kernels of apex",
    "calculate_per_token_loss": "the weights of a batch's tokens already carry the mean over all ranks",
    "moe_router_load_balancing_type": f"{_BY_PACK}; the family's own balance loss is a sequence's",
    "moe_expert_capacity_factor": f"{_BY_PACK}: which tokens an expert drops",
    "moe_pad_expert_input_to_capacity": f"{_BY_PACK}: which tokens an expert drops",
    "moe_input_jitter_eps": _RANDOM,
    "hidden_dropout": _RANDOM,
    "attention_dropout": _RANDOM,
    "moe_router_force_load_balancing": _BENCHMARK,
    "moe_router_force_biased": _BENCHMARK,
}


def refuse(given: Mapping[str, Any], by_layout: Collection[str]) -> None:
    """Raises ConfigError. by_layout: the fields that follow from the layout."""
    reasons = dict.fromkeys(by_layout, _BY_LAYOUT) | REFUSED
    found = [f"{name}: {reasons[name]}" for name in given if name in reasons]
    found += [
        f"{name}: {value} is no finite number"
        for name, value in given.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if found:
        raise ConfigError(f"model.megatron: {'; '.join(found)}; leave it out")
