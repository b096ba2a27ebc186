"""How a training step grows with tokens, layers and experts, next to a straight line.

    python -m benchmarks.growth

A V3-class MoE of 5M parameters on one rank; CPU seconds, in turn. The line is the least-squares one through
the points; a point off it by more than the goal of 10 % would say that something grows faster than it should.
The tokens an expert gets fall as there are more of them (top-2 of each): that line is of overhead alone.
"""

from collections.abc import Callable
from typing import Any

import numpy
import torch

from benchmarks import moe_step, twins
from benchmarks.measure import in_turn, one_thread
from benchmarks.record import record

SEQUENCES, LENGTH = 16, 128
BASE = moe_step.SHAPES["5M"]
GROWING: dict[str, list[int]] = {
    "layers": [2, 4, 6, 8],  # first: Megatron records balance losses of as many layers as its first model has
    "tokens": [1024, 2048, 4096, 8192],
    "experts": [4, 8, 16, 32],
}


def main() -> None:
    one_thread()
    layout = twins.start_alone()
    record("growth", [_row(what, sizes, layout) for what, sizes in GROWING.items()])


def _row(what: str, sizes: list[int], layout: Any) -> dict[str, Any]:
    steps = {size: _step(what, size, layout) for size in sizes}
    for size in reversed(sizes):
        steps[size]()
    timings = in_turn({str(size): step for size, step in steps.items()}, rounds=7)
    seconds = [min(t.cpu_s for t in timings[str(size)]) for size in sizes]
    line = numpy.polyval(numpy.polyfit(sizes, seconds, 1), sizes)
    return {
        "growing": what,
        "sizes": ", ".join(map(str, sizes)),
        "CPU s a step": ", ".join(f"{value:.3f}" for value in seconds),
        "farthest from the line": f"{max(abs(seconds / line - 1)):.1%}",
        "asked": "10 %",
    }


def _step(what: str, size: int, layout: Any) -> Callable[[], object]:
    from megatron_r1.types import TrainSequence

    shape = BASE | ({"num_layers": size} if what == "layers" else {})
    shape |= {"experts": size} if what == "experts" else {}
    policy = moe_step.policy(shape, layout)
    count = size // LENGTH if what == "tokens" else SEQUENCES
    tokens = torch.randint(2, 500, (count, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    sequences = [TrainSequence(row, torch.full((LENGTH + 1,), 1 / count / LENGTH)) for row in tokens]

    def loss(logprobs: Any, entropy: Any, batch: Any) -> Any:
        return -logprobs, {}

    return lambda: policy.train_step(sequences, loss, lr=1e-3)


if __name__ == "__main__":
    main()
