"""Log-probs and entropies from the last hidden states, without the logits of all tokens at once.

8,192 tokens times 129,280 words are 4 GB of fp32 logits, and their softmax and its gradient as much again.
Here the output layer takes a chunk of tokens at a time, and the backward pass computes its logits anew: one
more product of the output layer (a few percent of a step) for memory that no longer depends on the tokens.
The layer is Megatron's own, so that sequence parallelism, tied weights and fused gradients are as they were.
"""

# T tokens of a pack (T / cp on a context rank), S of them in this rank's hidden states (T / tp where
# sequences are parallel), V/tp this rank's shard of the vocabulary

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from megatron_r1.backend.logprobs import token_entropy, token_logprobs
from megatron_r1.backend.nucleus import truncate

Pairs = tuple[Tensor, Tensor]  # nucleus.pairs


@dataclass(frozen=True, slots=True)
class OutputHead:
    """The output layer, with the weight that it shares with the embedding if it does.

    max_logits: the most logits of a rank at once; None: those of all tokens, kept for the backward pass.
    """

    layer: Callable[..., tuple[Tensor, Any]]
    weight: Tensor | None
    max_logits: int | None

    def __call__(
        self,
        hidden: Tensor,
        labels: Tensor,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        allowed: Pairs | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden: [S, 1, h]; labels: [T]. Returns [T] log-probs of the labels and [T] entropies, if wanted.

        allowed: what each token was drawn from; the rest of the vocabulary counts as impossible.
        """
        chunks = list(self._chunks(hidden, labels))
        found: list[Tensor] = []
        entropies: list[Tensor] = []
        for states, places in chunks:

            def of_chunk(states: Tensor, places: Tensor, number: int) -> Tensor:
                logits = self.layer(states, weight=self.weight)[0]
                if allowed is not None:
                    logits = truncate(logits, _of_places(allowed, places, num_tokens=len(labels)))
                if entropy and number == len(entropies):  # not again in the backward pass
                    entropies.append(token_entropy(logits, temperature=temperature))
                return token_logprobs(logits, labels[places], temperature=temperature)

            arguments = (states, places, len(found))
            if len(chunks) == 1:
                found.append(of_chunk(*arguments))
            else:  # nothing random is inside
                found.append(checkpoint(of_chunk, *arguments, use_reentrant=False, preserve_rng_state=False))
        if len(chunks) == 1:
            return found[0], entropies[0] if entropy else None
        order = torch.cat([places for _, places in chunks]).argsort()
        return torch.cat(found)[order], torch.cat(entropies)[order] if entropy else None

    def num_chunks(self, hidden: Tensor, labels: Tensor) -> int:
        return len(list(self._chunks(hidden, labels)))

    def _chunks(self, hidden: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of the hidden states, and the places in the pack of the tokens whose logits they give.

        Where sequences are parallel, the layer gathers the same rows of all tensor ranks.
        """
        rows, num_ranks = len(hidden), len(labels) // len(hidden)
        firsts = torch.arange(num_ranks, device=labels.device)[:, None] * rows
        each = rows
        if self.max_logits is not None:
            each = max(1, self.max_logits // (self._width() * num_ranks))
        for start in range(0, rows, each):
            stop = min(start + each, rows)
            places = firsts + torch.arange(start, stop, device=labels.device)
            yield hidden[start:stop], places.flatten()

    def _width(self) -> int:
        weight = self.layer.weight if self.weight is None else self.weight  # type: ignore[attr-defined]
        return weight.shape[0]


def _of_places(pairs: Pairs, places: Tensor, *, num_tokens: int) -> Pairs:
    """Those of the tokens at these places, numbered in their order."""
    positions, ids = pairs
    number = torch.full((num_tokens,), -1, device=places.device)
    number[places] = torch.arange(len(places), device=places.device)
    mine = number[positions] >= 0
    return number[positions][mine], ids[mine]
