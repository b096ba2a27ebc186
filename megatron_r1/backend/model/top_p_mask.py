"""Top-p in training as in the rollout: the same tokens are left out before the softmax.

A rollout with top_p < 1 samples from the distribution over its nucleus. The trainer's own nucleus would be
another one as soon as the weights move, so the rollout's is kept, token by token, and every log-prob that
takes part in a ratio is taken over it (DeepSeek-V3.2, arXiv 2512.02556, "keep sampling mask").
"""

# T tokens of a pack (T / cp on a context rank), B rows, V vocabulary, V/tp this rank's shard of it

from collections.abc import Sequence

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_r1.types import Nucleus

# not -inf: 0 * -inf in an entropy would be NaN, and exp of this is 0 all the same
NEVER = -1e30


class NucleusRecorder:
    """The nuclei of a rollout, step by step."""

    def __init__(self, rows: int) -> None:
        self._ids: list[list[Tensor]] = [[] for _ in range(rows)]

    def note(self, rows: Sequence[int], allowed: Tensor) -> None:
        """allowed: [B, V] bool, what each of these rows draws its next token from."""
        counts = allowed.sum(1).tolist()
        ids = allowed.nonzero()[:, 1].to(torch.int32).cpu()
        for row, found in zip(rows, ids.split(counts), strict=True):
            self._ids[row].append(found)

    def of_rows(self, lengths: Sequence[int]) -> list[Nucleus]:
        """Of the first lengths[i] tokens of each row."""
        return [join_lists(ids[:length]) for ids, length in zip(self._ids, lengths, strict=False)]


def join_lists(lists: Sequence[Tensor]) -> Nucleus:
    counts = torch.tensor([0, *map(len, lists)])
    ids = torch.cat([torch.zeros(0, dtype=torch.int32), *lists])
    return Nucleus(ids.to(torch.int32), counts.cumsum(0))


def pairs(nucleus: Nucleus, local: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(position, token id) of every token of every nucleus.

    local: [T / cp] the positions that this context rank holds; they are numbered anew in that order.
    """
    counts = nucleus.offsets.diff()
    positions = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    ids = nucleus.ids.long()
    if local is None:
        return positions, ids
    renumbered = torch.full_like(counts, -1)
    renumbered[local] = torch.arange(len(local), device=local.device)
    positions = renumbered[positions]
    return positions[positions >= 0], ids[positions >= 0]


def truncate(logits: Tensor, allowed: tuple[Tensor, Tensor]) -> Tensor:
    """logits: [T, 1, V/tp]; allowed: `pairs`. Positions without a pair keep the whole vocabulary."""
    positions, ids = allowed
    width = logits.shape[-1]
    listed = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    listed[positions] = True
    keep = (~listed)[:, None].expand(-1, width).contiguous()
    first = parallel_state.get_tensor_model_parallel_rank() * width
    here = (ids >= first) & (ids < first + width)
    keep[positions[here], ids[here] - first] = True
    return logits.masked_fill(~keep[:, None], NEVER)
