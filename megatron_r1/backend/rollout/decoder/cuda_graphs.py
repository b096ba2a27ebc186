"""Decoding steps as CUDA graphs: one launch a step, in place of some twenty operators a layer.

A graph repeats its kernels on the shapes and addresses it was captured with. So a step here has one of a few
numbers of rows and of cache columns, never fewer than the batch needs, and reads its tokens and places from
tensors that stay. Rows behind the batch feed a dummy token into places of the cache that no row has; columns
behind a row's end are masked. What is sampled is what LeanDecoder samples, which the CPU checks: there the
same steps run without a graph.

Graphs are captured when first needed and share their scratch memory; the decoder, and they with it, is gone
with the rollout, since the next one may have other prompts, and another cache with them.
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
COLUMN_STEPS = 8  # below a power of two: at most a quarter of a long row's columns is read in vain


def rounded_rows(count: int, capacity: int) -> int:
    """A power of two, or all places."""
    return min(capacity, max(FEWEST_ROWS, _next_power(count)))


def rounded_columns(end: int, length: int) -> int:
    """A multiple of an eighth of the next power of two, or the whole cache."""
    step = max(FEWEST_COLUMNS, _next_power(end) // COLUMN_STEPS)
    return min(length, -(-end // step) * step)


def _next_power(value: int) -> int:
    return 1 << (value - 1).bit_length()


class GraphedDecoder(LeanDecoder):
    """LeanDecoder whose single tokens go through steps of rounded size."""

    def __init__(self, chunks: Sequence[Any], *, rows: int, length: int, **options: Any) -> None:
        super().__init__(chunks, rows=rows, length=length, **options)
        # tokens and places of all rows; those behind the batch feed token 0 at place 0
        self._tokens = torch.zeros(rows, 1, dtype=torch.long, device=device())
        self._places = torch.zeros(rows, dtype=torch.long, device=device())
        self._steps: dict[tuple[int, int], Callable[[], Tensor]] = {}
        self._pool = None
        if device().type == "cuda":
            require_grouped_experts(self)
            self._pool = torch.cuda.graph_pool_handle()

    def decode(self, tokens: Tensor, places: Sequence[int], *, most: int) -> Tensor:
        size = (
            rounded_rows(self.count, self.capacity),
            rounded_columns(max(places) + self.width, self.length),
        )
        self._tokens.zero_()[: self.count] = tokens
        self._places.zero_()[: self.count] = torch.tensor(places, device=device())
        if size not in self._steps:
            self._steps[size] = self._step(*size)
        return self._steps[size]()[: self.count, None]

    def _step(self, rows: int, columns: int) -> Callable[[], Tensor]:
        """[rows, V] logits of what the fixed tensors hold when it is called."""

        def run() -> Tensor:
            caches = [cache[:rows] for cache in self.caches]
            position = Position.of_places(self._places[:rows], end=columns)
            return self._feed(self._tokens[:rows], caches, position)

        return run if self._pool is None else captured(run, self._pool)


def require_grouped_experts(decoder: LeanDecoder) -> None:
    """Raises ConfigError where the host reads how many tokens an expert has, which no graph can do."""
    layers = [layer.mlp for chunk in decoder.chunks for layer in chunk.layers]
    if any(isinstance(mlp, Experts) and not mlp.products.grouped for mlp in layers):
        raise ConfigError(
            "rollout_cuda_graphs: a layer's experts are computed one after the other, since their weights "
            "don't lie behind each other or this GPU has no grouped product of them; set it to false"
        )


def captured(run: Callable[[], Tensor], pool: Any) -> Callable[[], Tensor]:
    """`run` as a graph. It is run before, when libraries allocate, and must give the same each time."""
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
