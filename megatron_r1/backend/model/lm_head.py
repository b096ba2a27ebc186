"""The lm_head in chunks: log-probs and entropies without the logits of all tokens at once.

8,192 tokens times a vocabulary of 129,280 are 4 GB of fp32 logits, and their softmax and gradient as much
each. Here the output layer takes a chunk of tokens at a time, and the backward pass recomputes its logits:
one more matrix product (a few percent of a step), for memory that doesn't depend on the number of tokens. The
weight's gradient is summed in place over the chunks and reaches autograd once; Megatron's
gradient_accumulation_fusion (off in build.py) would need the parameter itself. The layer is Megatron's own,
so sequence parallelism and tied weights work.

Tokens that the loss doesn't count, such as RL's prompts, skip the layer.
"""

# T tokens of a pack (T / cp on a context rank), S of them in this rank's hidden states (T / tp with sequence
# parallelism), R <= S rows that the layer gets, V/tp this rank's shard of the vocabulary

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_r1.backend.model.logprobs import token_entropy, token_logprobs
from megatron_r1.backend.model.top_p_mask import truncate

Pairs = tuple[Tensor, Tensor]  # top_p_mask.pairs
OfChunk = Callable[[int, Tensor, Tensor], Tensor]  # index of the chunk, rows, weight -> log-probs


@dataclass(frozen=True, slots=True)
class LmHead:
    """Megatron's output layer; `weight` is the embedding's where they are tied.

    max_logits: the most logits that a rank holds at once; None: all, kept for the backward pass.
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
        counted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden: [S, 1, h]; labels: [T]. Returns [T] log-probs of the labels and, if asked, [T] entropies.

        allowed: the top-p mask of each token; other tokens of the vocabulary get probability 0.
        counted: [T] bool, the same on all tensor ranks; tokens that don't count get 0. None: all count.
        """
        if counted is not None and bool(counted.all()):
            counted = None
        places = _places(len(hidden), labels, counted)
        if places.shape[1] < len(hidden):
            hidden = hidden.index_select(0, _rows(places, num_rows=len(hidden)))
        chunks = places.split(self._rows_at_once(places), dim=1)
        entropies: list[Tensor] = []

        def of_chunk(number: int, states: Tensor, weight: Tensor | None) -> Tensor:
            own = chunks[number].flatten()
            logits = self.layer(states, weight=weight)[0]
            if allowed is not None:
                logits = truncate(logits, _of_places(allowed, own, num_tokens=len(labels)))
            if entropy and number == len(entropies):  # not again in the backward pass
                entropies.append(token_entropy(logits, temperature=temperature))
            return token_logprobs(logits, labels[own], temperature=temperature)

        if len(chunks) == 1:
            found = of_chunk(0, hidden, self.weight)
            if counted is None:  # in the pack's order
                return found, entropies[0] if entropy else None
        else:
            rows = [chunk.shape[1] for chunk in chunks]
            found = _InChunks.apply(of_chunk, rows, hidden, self._weight())  # type: ignore[assignment]
        order = torch.cat([chunk.flatten() for chunk in chunks])
        logprobs = _spread(found, order, counted)
        return logprobs, _spread(torch.cat(entropies), order, counted) if entropy else None

    def _rows_at_once(self, places: Tensor) -> int:
        num_ranks, rows = places.shape
        if self.max_logits is None:
            return rows
        return max(1, self.max_logits // (len(self._weight()) * num_ranks))

    def _weight(self) -> Tensor:
        return self.layer.weight if self.weight is None else self.weight  # type: ignore[attr-defined]


class _InChunks(torch.autograd.Function):
    """of_chunk over rows of the hidden states, recomputed in the backward pass.

    The weight's gradient is summed in place: two tensors of its size at once, where autograd holds three.
    """

    @staticmethod
    def forward(ctx: Any, of_chunk: OfChunk, rows: list[int], hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.of_chunk, ctx.rows = of_chunk, rows
        ctx.save_for_backward(hidden, weight)
        return torch.cat([of_chunk(n, states, weight) for n, states in enumerate(hidden.split(rows))])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        of_hidden: list[Tensor] = []
        of_weight: list[Tensor] = []  # empty, or the sum so far
        parts = gradient.split(_outputs(gradient, ctx.rows))

        # a function, so that a chunk's tensors are freed before the next
        def add(number: int, states: Tensor) -> None:
            own_states = states.detach().requires_grad_(wanted[0])
            own_weight = weight.detach().requires_grad_(wanted[1])  # hides a part from the parameter's hooks
            with torch.enable_grad():
                found = ctx.of_chunk(number, own_states, own_weight)
            inputs = [each for each in (own_states, own_weight) if each.requires_grad]
            grads = list(torch.autograd.grad(found, inputs, parts[number]))
            if wanted[0]:
                of_hidden.append(grads.pop(0))
            if wanted[1] and of_weight:
                of_weight[0] += grads.pop()
            elif wanted[1]:
                of_weight.append(grads.pop())

        for number, states in enumerate(hidden.split(ctx.rows)):
            add(number, states)
        return None, None, torch.cat(of_hidden) if of_hidden else None, of_weight[0] if of_weight else None


def _places(num_rows: int, labels: Tensor, counted: Tensor | None) -> Tensor:
    """[tp or 1, R]: the indices in the pack of the tokens that the layer gets, by tensor rank.

    With sequence parallelism the layer gathers equally many rows from all tensor ranks: a rank with fewer
    counted tokens adds others. At least one row, so that the layer's weight gets a gradient, even if 0.
    """
    places = torch.arange(len(labels), device=labels.device).view(-1, num_rows)
    if counted is None:
        return places
    of_ranks = counted.view(-1, num_rows)
    most = max(1, int(of_ranks.sum(1).max()))
    first = (~of_ranks).byte().argsort(dim=1, stable=True)[:, :most]
    return places.gather(1, first.sort(dim=1).values)


def _rows(places: Tensor, *, num_rows: int) -> Tensor:
    """[R]: the rows of this rank's own hidden states."""
    rank = parallel_state.get_tensor_model_parallel_rank() if len(places) > 1 else 0
    return places[rank] - rank * num_rows


def _spread(values: Tensor, places: Tensor, counted: Tensor | None) -> Tensor:
    """Scatter values to their indices in the pack, [T]; 0 where nothing counts."""
    if counted is not None:
        return torch.where(counted, values.new_zeros(len(counted)).index_copy(0, places, values), 0.0)
    return values[places.argsort()]


def _outputs(gradient: Tensor, rows: list[int]) -> list[int]:
    """Tokens of each chunk; with sequence parallelism those of all tensor ranks' rows."""
    return [each * len(gradient) // sum(rows) for each in rows]


def _of_places(pairs: Pairs, places: Tensor, *, num_tokens: int) -> Pairs:
    """The pairs of the tokens at these indices, renumbered in their order."""
    positions, ids = pairs
    number = torch.full((num_tokens,), -1, device=places.device)
    number[places] = torch.arange(len(places), device=places.device)
    mine = number[positions] >= 0
    return number[positions][mine], ids[mine]
