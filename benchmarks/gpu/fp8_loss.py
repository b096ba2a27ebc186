"""The loss of training in FP8 beside BF16's, over 200 steps. `python -m benchmarks.gpu.fp8_loss`.

Same weights, same text, same order. The text is a Markov chain's, so that there is something to learn and a
floor that the loss falls towards. The losses are compared smoothed, as in the V3 report: "the relative loss
error of our FP8-training model remains consistently below 0.25%" (arXiv 2412.19437, section 3.3; appendix
B.1: an exponential moving average with 0.9).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import _setting as setting
from benchmarks.gpu import rows
from megatron_r1.backend.model.precision import Precision
from megatron_r1.errors import ConfigError
from megatron_r1.types import OptimizerOptions, TrainSequence

SIZE = "v3_small"
BESIDE: Precision = "bf16"
ASKED: Precision = "fp8_blockwise"  # the row's; the others are kept too
RECIPES: tuple[Precision, ...] = (ASKED, "fp8_current", "fp8_delayed", "mxfp8")
STEPS, SEQUENCES, LENGTH = 200, 32, 512
LR, WARMUP = 6e-4, 20
SMOOTHING = 0.9
STATES, SUCCESSORS = 1024, 8  # of the chain, and of each of its states


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two smoothed curves, relative to the one beside."""

    largest: float
    at_end: float


def main() -> None:
    setting.start()
    text = markov_text(STEPS, SEQUENCES, LENGTH)
    beside = losses(BESIDE, text)
    for recipe in RECIPES:
        setting.forget()
        try:
            found = losses(recipe, text)
        except ConfigError as error:  # a format that this machine does not have
            print(f"{recipe}: {error}", flush=True)
            if recipe == ASKED:
                rows.missing("fp8_loss", str(error))
            continue
        keep(recipe, found, beside)


def keep(recipe: Precision, found: list[float], beside: list[float]) -> Difference:
    apart = difference(found, beside)
    detail = {
        "at_end": apart.at_end,
        "loss": [round(found[i], 4) for i in (0, -1)],
        f"loss_{BESIDE}": [round(beside[i], 4) for i in (0, -1)],
        "floor": round(entropy(), 4),
        "steps": len(found),
    }
    setting.append({"recipe": recipe, "largest": apart.largest, **detail}, "gpu_fp8_loss.jsonl")
    if recipe == ASKED:
        rows.measured("fp8_loss", apart.largest, **detail)
    return apart


def losses(precision: Precision, text: Tensor) -> list[float]:
    """Of every step. text: [steps, sequences, length + 1]."""
    policy = setting.policy(SIZE, precision, tokens_per_pack=text.shape[1] * (text.shape[2] - 1), seeded=True)
    policy.start_training(OptimizerOptions())
    count, width = text.shape[1:]
    weights = torch.full((width,), 1 / (count * (width - 1)))
    return [
        policy.train_step(
            [TrainSequence(sequence, weights) for sequence in batch],
            lambda logprobs, entropy, batch: (-logprobs, {}),
            lr=LR * min(1.0, (step + 1) / WARMUP),
        ).loss
        for step, batch in enumerate(text)
    ]


def difference(found: list[float], beside: list[float]) -> Difference:
    pairs = zip(smoothed(found), smoothed(beside), strict=True)
    apart = [abs(a - b) / b for a, b in pairs]
    return Difference(max(apart), apart[-1])


def smoothed(values: list[float]) -> list[float]:
    found = values[:1]
    for value in values[1:]:
        found.append(SMOOTHING * found[-1] + (1 - SMOOTHING) * value)
    return found


def markov_text(steps: int, sequences: int, length: int) -> Tensor:
    """[steps, sequences, length + 1]; each state has SUCCESSORS others, one more likely than the next."""
    generator = torch.Generator().manual_seed(0)
    successors = torch.randint(0, STATES, (STATES, SUCCESSORS), generator=generator)
    state = torch.randint(0, STATES, (steps * sequences,), generator=generator)
    found = [state]
    for _ in range(length):
        chosen = torch.multinomial(_odds(), len(state), replacement=True, generator=generator)
        found.append(state := successors[state, chosen])
    return torch.stack(found, dim=1).view(steps, sequences, length + 1)


def entropy() -> float:
    """Of the next state, in nats: what no model's loss falls below (but for successors that coincide)."""
    odds: Any = _odds()
    return -math.fsum(float(p) * math.log(p) for p in odds)


def _odds() -> Tensor:
    """Of a state's successors: 1, 1/2, 1/3, ..."""
    weights = 1 / torch.arange(1, SUCCESSORS + 1, dtype=torch.float64)
    return weights / weights.sum()


if __name__ == "__main__":
    main()
