"""Keyed sampling: the draw of a token depends only on the seed, the completion's key and the position.

One uniform number gives the token through the inverse CDF. The number comes from a counter-based hash, not
from a generator's state, so the same tokens are sampled in every layout, in every batch, and after a resume.
"""

# B sequences, V vocabulary

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def next_tokens(
    logits: Tensor,
    uniforms: Tensor,
    *,
    temperature: float,
    top_p: float,
    note: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """logits: [B, V] float32; uniforms: [B] in [0, 1). Returns tokens [B] and their log-probs [B].

    note: called with the top-p mask, [B, V] bool (True: allowed), if top_p < 1.

    The log-probs are of the distribution that was sampled from: with temperature and truncation.
    temperature 0 takes the most likely token (its log-prob is then of temperature 1).
    """
    if temperature == 0:
        logprobs = logits.log_softmax(-1)
        tokens = logprobs.argmax(-1)
    else:
        logprobs = (logits if temperature == 1 else logits / temperature).log_softmax(-1)
        if top_p < 1:
            allowed = nucleus(logprobs, top_p)
            logprobs = logprobs.masked_fill(~allowed, -torch.inf).log_softmax(-1)
            if note is not None:
                note(allowed)
        tokens = _inverse_cdf(logprobs.exp(), uniforms)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Top-p mask, [..., V] bool: the fewest most likely tokens whose probabilities add up to top_p or more.

    Source: Holtzman et al., 1904.09751, section 3.1. The most likely token is always in.
    """
    ordered, index = logprobs.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    return torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, index, before < top_p)


def _inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # scaled to stay below the rounded total; side right: the token found has a probability above 0
    target = torch.minimum(uniforms[:, None].double() * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def uniforms(keys: Sequence[int], *, position: int | Sequence[int], seed: int) -> Tensor:
    """[len(keys)] float64 in [0, 1): a hash of seed, key and position (one for all, or one a key)."""
    positions = [position] if isinstance(position, int) else position
    with np.errstate(over="ignore"):  # the hash computes modulo 2^64
        mixed = _mix(_mix(_mix(_words([seed])) ^ _words(keys)) ^ _words(positions))
    return torch.from_numpy(mixed / 2.0**64)


def _words(values: Sequence[int]) -> np.ndarray:
    return np.array([value & _MASK for value in values], dtype=np.uint64)


def _mix(value: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele et al., 2014): every input bit moves about half of the output bits."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
