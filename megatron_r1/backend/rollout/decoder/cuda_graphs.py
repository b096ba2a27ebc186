"""Decoding steps as CUDA graphs: one launch a step instead of some twenty operators a layer.

A graph replays its kernels on the shapes and addresses it was captured with. So the number of slots and of
cache columns is rounded up to one of a few sizes, and tokens and positions are read from fixed tensors. Slots
beyond the batch feed a dummy token; columns beyond a sequence's end are masked. The tokens are those of
LeanDecoder: on the CPU the same steps run without a graph, and tests compare them.

Graphs are captured when first needed and share one memory pool. They live as long as the decoder, which is
one rollout: the next one may need a cache of another size.
"""

# B rows, V vocabulary

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.backend.rollout.decoder.attention import Position
from megatron_r1.backend.rollout.decoder.decoder import LeanDecoder
from megatron_r1.backend.rollout.decoder.mlp import Experts
from megatron_r1.errors import ConfigError

FEWEST_ROWS, FEWEST_COLUMNS = 8, 128
COLUMN_STEPS = 8  # sizes below a power of two: at most a quarter of a long sequence's columns is read in vain


def rounded_rows(count: int, capacity: int) -> int:
    """A power of two, or all slots."""
    return min(capacity, max(FEWEST_ROWS, _next_power(count)))


def rounded_columns(end: int, length: int) -> int:
    """A multiple of an eighth of the next power of two, or the whole cache."""
    step = max(FEWEST_COLUMNS, _next_power(end) // COLUMN_STEPS)
    return min(length, -(-end // step) * step)


def _next_power(value: int) -> int:
    return 1 << (value - 1).bit_length()


class GraphedDecoder(LeanDecoder):
    """LeanDecoder whose decoding steps have rounded sizes and run as CUDA graphs on a GPU."""

    def __init__(self, chunks: Sequence[Any], *, rows: int, length: int, **options: Any) -> None:
        super().__init__(chunks, rows=rows, length=length, **options)
        # of all slots; those beyond the batch feed token 0 at position 0
        self._tokens = torch.zeros(rows, 1, dtype=torch.long, device=device())
        self._positions = torch.zeros(rows, dtype=torch.long, device=device())
        self._steps: dict[tuple[int, int], Callable[[], Tensor]] = {}
        self._pool = None
        if device().type == "cuda":
            require_grouped_experts(self)
            self._pool = torch.cuda.graph_pool_handle()

    def decode(self, tokens: Tensor, positions: Sequence[int], *, max_tokens: int) -> Tensor:
        size = (
            rounded_rows(self.count, self.capacity),
            rounded_columns(max(positions) + self.width, self.length),
        )
        self._tokens.zero_()[: self.count] = tokens
        self._positions.zero_()[: self.count] = torch.tensor(positions, device=device())
        if size not in self._steps:
            self._steps[size] = self._step(*size)
        return self._steps[size]()[: self.count, None]

    def _step(self, rows: int, columns: int) -> Callable[[], Tensor]:
        """Returns a function that gives [rows, V] logits of what the fixed tensors hold when it is called."""

        def run() -> Tensor:
            caches = [cache[:rows] for cache in self.caches]
            position = Position.of_positions(self._positions[:rows], end=columns)
            return self._feed(self._tokens[:rows], caches, position)

        return run if self._pool is None else captured(run, self._pool)


def require_grouped_experts(decoder: LeanDecoder) -> None:
    """Raises ConfigError where the host reads each expert's token count, which a graph can't do."""
    layers = [layer.mlp for chunk in decoder.chunks for layer in chunk.layers]
    if any(isinstance(mlp, Experts) and not mlp.products.grouped for mlp in layers):
        raise ConfigError(
            "rollout.cuda_graphs: a layer's experts are computed one after the other, since their weights "
            "don't lie behind each other or this GPU has no grouped product of them; set it to false"
        )


def captured(run: Callable[[], Tensor], pool: Any) -> Callable[[], Tensor]:
    """`run` captured as a graph, after two warm-up calls in which libraries allocate."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        found = run()

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay
