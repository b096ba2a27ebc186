"""Top-p mask: training takes the softmax over the tokens that the rollout could draw.

A rollout with top_p < 1 samples from a truncated distribution. A mask computed in training would differ once
the weights move, so the rollout's mask is recorded for every token, and every log-prob of an importance ratio
is taken under it (DeepSeek-V3.2, arXiv 2512.02556, "keep sampling mask").
"""

# T tokens of a pack (T / cp on a context rank), B sequences, V vocabulary, V/tp this rank's shard of it

from collections.abc import Sequence

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_r1.types import Nucleus

# not -inf: 0 * -inf in an entropy would be NaN; exp of this is 0 too
NEVER = -1e30


class TopPMaskRecorder:
    """Records the top-p masks of a rollout, step by step."""

    def __init__(self, rows: int) -> None:
        self._ids: list[list[Tensor]] = [[] for _ in range(rows)]

    def note(self, rows: Sequence[int], allowed: Tensor) -> None:
        """allowed: [B, V] bool, the tokens that each of these rows could draw in this step."""
        counts = allowed.sum(1).tolist()
        ids = allowed.nonzero()[:, 1].to(torch.int32).cpu()
        for row, found in zip(rows, ids.split(counts), strict=True):
            self._ids[row].append(found)

    def of_rows(self, lengths: Sequence[int]) -> list[Nucleus]:
        """The masks of the first lengths[i] tokens of each row."""
        return [join_lists(ids[:length]) for ids, length in zip(self._ids, lengths, strict=False)]


def join_lists(lists: Sequence[Tensor]) -> Nucleus:
    counts = torch.tensor([0, *map(len, lists)])
    ids = torch.cat([torch.zeros(0, dtype=torch.int32), *lists])
    return Nucleus(ids.to(torch.int32), counts.cumsum(0))


def pairs(nucleus: Nucleus, local: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(position, token id) of every allowed token.

    local: [T / cp], the positions that this context rank holds; they are renumbered in that order.
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
