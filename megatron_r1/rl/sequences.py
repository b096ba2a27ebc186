"""Sums and means over the response tokens of each sequence of a pack, given to every token of it."""

# T packed tokens, N sequences in the pack

import torch
from torch import Tensor


def sequence_sum(values: Tensor, mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[T] for each token the sum of `values` over the masked tokens of its sequence; 0 without any.

    values: [T], mask: [T] bool, cu_seqlens: [N + 1] offsets, the last is T.
    """
    owner = _owners(cu_seqlens, len(values))
    zeros = values.new_zeros(cu_seqlens.numel() - 1)
    return zeros.index_add(0, owner, torch.where(mask, values, 0.0))[owner]


def sequence_mean(values: Tensor, mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[T] as sequence_sum, the mean."""
    count = sequence_sum(mask.to(values.dtype), mask, cu_seqlens)
    return sequence_sum(values, mask, cu_seqlens) / count.clamp(min=1)


def _owners(cu_seqlens: Tensor, num_tokens: int) -> Tensor:
    """[T] the sequence of each token."""
    lengths = cu_seqlens.diff()  # [N]
    owner = torch.arange(lengths.numel(), device=cu_seqlens.device)
    return owner.repeat_interleave(lengths, output_size=num_tokens)
