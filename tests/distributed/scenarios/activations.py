"""What autograd keeps of one forward pass on real ranks: every storage once, weights left out."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_r1.backend.train.forward import ForwardOptions, forward
from megatron_r1.config.layout import Layout
from megatron_r1.data.packing import pack
from tests.distributed.scenarios import models

LENGTH, SEQUENCES = 64, 4


def kept(layout: Layout, shared: Path, *, family: str, precision: str, recompute: str, mtp: bool) -> int:
    """Bytes on this rank; the pipeline has one stage, for a rank of a later one has no input here."""
    policy = models.policy(family, layout, precision=precision, recompute=recompute)
    weights = {_storage(t) for chunk in policy.chunks for t in (*chunk.parameters(), *chunk.buffers())}
    found: dict[int, int] = {}
    alive: list[Any] = []  # a freed storage's address could be given out again

    def note(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            found[_storage(tensor)] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    batch = pack(models.batch(0)[:SEQUENCES], max_tokens=SEQUENCES * LENGTH, multiple=8).batches[0]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        alive.append(forward(policy.chunks[0], batch, ForwardOptions(mtp=mtp)))
    return sum(found.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
