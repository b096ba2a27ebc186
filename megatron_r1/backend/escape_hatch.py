"""What `model.megatron` may not set: Megatron would take it, and compute wrongly or break far from the cause.

Read in megatron-core 0.19.2's sources; batched p2p's wrong gradients were seen.
"""

from collections.abc import Collection, Mapping
from typing import Any

from megatron_r1.errors import ConfigError

_BY_LAYOUT = "layout decides it"
_P2P = "layout.virtual_pipeline decides it: an interleaved pipeline over batched p2p computes wrong gradients"
_BY_TRAINER = "only Megatron's own training script sets up what it needs"

REFUSED = {
    "delay_wgrad_compute": f"{_BY_TRAINER}, a DistributedDataParallel that waits for late gradients",
    "batch_p2p_comm": _P2P,
    "overlap_p2p_comm": _P2P,
    "tp_comm_overlap": f"{_BY_TRAINER}, Transformer Engine's user buffers",
    "overlap_dispatch_backward_with_experts_wgrad": "it is for Megatron's FSDP, which is not used here",
    "defer_embedding_wgrad_compute": "it needs gradient_accumulation_fusion, which needs kernels of apex",
}


def refuse(given: Mapping[str, Any], by_layout: Collection[str]) -> None:
    """Raises ConfigError. by_layout: the fields that follow from the layout."""
    reasons = dict.fromkeys(by_layout, _BY_LAYOUT) | REFUSED
    found = [f"{name}: {reasons[name]}" for name in given if name in reasons]
    if found:
        raise ConfigError(f"model.megatron: {'; '.join(found)}; leave it out")
