"""What an update saves by computing no logits of the prompts, beside the same with those of every token.

    python -m benchmarks.prompt_logits

The reference's log-probs and an update of GRPO, as the stage makes them, with prompts as long as the outputs;
no rollout. Both ways take turns in one process; FLOPs are counted by torch, products forward and backward.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import twins
from benchmarks.measure import in_turn, median_ratio, one_thread
from benchmarks.record import record

OUTPUTS, LENGTH, ROUNDS = 32, 128, 5
WORDS = {"1M, the demo's vocabulary": 512, "the same with Qwen2's": 151_936}
WITHOUT, WITH = "without", "with"


def main() -> None:
    one_thread()
    layout = twins.start_alone()
    record("prompt_logits", [_row(name, words, layout) for name, words in WORDS.items()])


def _row(name: str, words: int, layout: Any) -> dict[str, Any]:
    few = words < 10_000
    ways = _ways(words, OUTPUTS if few else 4, layout)
    losses = {way: run() for way, run in ways.items()}
    flops = {way: _flops(run) for way, run in ways.items()}
    timings = in_turn(ways, rounds=ROUNDS if few else 3)
    seconds = {way: statistics.median(t.cpu_s for t in found) for way, found in timings.items()}
    return {
        "model": name,
        "words": words,
        "GFLOPs with the prompts' logits": round(flops[WITH] / 1e9, 2),
        "without": round(flops[WITHOUT] / 1e9, 2),
        "share of FLOPs": round(flops[WITHOUT] / flops[WITH], 3),
        "CPU s with": round(seconds[WITH], 3),
        "CPU s without": round(seconds[WITHOUT], 3),
        "times faster": median_ratio(timings, ours=WITHOUT, theirs=WITH),
        "difference of the losses": f"{abs(losses[WITH] - losses[WITHOUT]):.1e}",
    }


def _flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _ways(words: int, outputs: int, layout: Any) -> dict[str, Callable[[], float]]:
    """Updates of one model at a learning rate of 0, so that each is the same."""
    from megatron_r1.rl.losses import GrpoLoss
    from megatron_r1.types import OptimizerOptions, TrainSequence

    with patch.object(twins, "VOCABULARY", words):
        policy = twins.our_policy(twins.SHAPES["1M"], layout, tokens_per_pack=4096)
    policy.refresh_reference()
    policy.start_training(OptimizerOptions())
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, words, (outputs, 2 * LENGTH), generator=generator)
    weights = torch.cat([torch.zeros(LENGTH), torch.full((LENGTH,), 1 / outputs / LENGTH)])
    advantages = torch.linspace(-1, 1, outputs)
    given = [
        TrainSequence(row, weights, {"advantage": torch.full_like(weights, float(advantage))})
        for row, advantage in zip(tokens, advantages, strict=True)
    ]

    def update(*, prompt_logits: bool) -> float:
        policy.options = replace(policy.options, prompt_logits=prompt_logits)
        found = policy.logprobs(given, reference=True)
        sequences = [
            replace(s, loss_inputs=replace(s.loss_inputs, ref_logprobs=values))
            for s, values in zip(given, found, strict=True)
        ]
        return policy.train_step(sequences, GrpoLoss().function(), lr=0.0, entropy=True).loss

    return {WITHOUT: partial(update, prompt_logits=False), WITH: partial(update, prompt_logits=True)}


if __name__ == "__main__":
    main()
