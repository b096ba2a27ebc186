"""The same output lengths for every contender: EOS comes where it was drawn beforehand, and nowhere else.

Our sampler tells a row's uniform number to `next_tokens`: below 1 / mean, EOS follows. That number depends on
the row's key and the position only, so the lengths are known in advance and transformers gets them as a list.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.twins import EOS


def drawn_lengths(keys: list[int], *, seed: int, mean: float | None, limit: int) -> list[int]:
    """Tokens of each row, EOS included; mean None: all rows reach the limit."""
    if mean is None:
        return [limit] * len(keys)
    from megatron_r1.backend.rollout.sampling import uniforms

    draws = torch.stack([uniforms(keys, position=i, seed=seed) for i in range(limit)], dim=1)
    ends = torch.cat([draws < 1 / mean, torch.ones(len(keys), 1, dtype=torch.bool)], dim=1)
    return (ends.int().argmax(1) + 1).clamp(max=limit).tolist()


@contextmanager
def forced_in_ours(mean: float | None) -> Iterator[None]:
    from megatron_r1.backend.rollout import batch_scheduler

    sample = batch_scheduler.next_tokens

    def forced(logits: torch.Tensor, uniforms: torch.Tensor, **options: Any) -> Any:
        logits[:, EOS] = -torch.inf
        tokens, logprobs = sample(logits, uniforms, **options)
        return (tokens if mean is None else tokens.masked_fill(uniforms < 1 / mean, EOS)), logprobs

    batch_scheduler.next_tokens = forced
    try:
        yield
    finally:
        batch_scheduler.next_tokens = sample


class ForcedInTransformers:
    """A logits processor. Rows of `lengths` below the limit end with EOS."""

    def __init__(self, lengths: list[int], *, prompt: int, limit: int) -> None:
        self.prompt = prompt
        ends = [length if length < limit else 0 for length in lengths]
        self.ends = torch.tensor(ends)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, EOS] = -torch.inf
        last = self.ends == input_ids.shape[1] - self.prompt + 1
        if last.any():
            scores[last] = -torch.inf
            scores[last, EOS] = 0.0
        return scores
