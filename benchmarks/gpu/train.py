"""Training on one GPU: tokens/s, MFU and memory. `python -m benchmarks.gpu.train`."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import _setting as setting
from benchmarks.gpu.peaks import seconds
from megatron_r1.backend.model.precision import FP8_RECIPES, Precision
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.errors import ConfigError
from megatron_r1.models.flops import token_cost
from megatron_r1.types import OptimizerOptions, PackedBatch, TrainSequence

PRECISIONS: list[Precision] = ["bf16", *FP8_RECIPES]  # type: ignore[list-item]
DENSE = ("dense_0.5b", "dense_1.5b")  # the V3-shaped one is in proxy.py


def measure(
    size: str,
    precision: Precision,
    *,
    policy: MegatronPolicy | None = None,
    sequence_length: int = 4096,
    sequences: int = 8,
    warmup: int = 3,
    steps: int = 10,
) -> setting.Measurement:
    """Updates on full sequences after a few that fill caches and allocate.

    policy: of this size and precision, not yet training; None for one whose packs are of one sequence.
    """
    if policy is None:
        policy = setting.policy(size, precision, tokens_per_pack=sequence_length)
    policy.start_training(OptimizerOptions())
    batch = _batch(setting.SIZES[size].shape().vocab_size, sequence_length, sequences)

    def train(times: int) -> None:
        for _ in range(times):
            policy.train_step(batch, _cross_entropy, lr=1e-5)

    train(warmup)
    speed = steps * sequences * sequence_length / seconds(lambda: train(steps))
    peak = setting.peak_flops(precision)
    return setting.Measurement(
        benchmark="train",
        size=size,
        precision=precision,
        tokens_per_s=speed,
        memory_gib=setting.memory_gib(),
        mfu=None if peak is None else speed * flops_a_token(size, sequence_length) / peak,
        device=setting.device_name(),
    )


def flops_a_token(size: str, sequence_length: int) -> float:
    """Of a training step, without what is computed again."""
    return token_cost(setting.SIZES[size]).training_flops(sequence_length)


def _batch(vocabulary: int, length: int, count: int) -> list[TrainSequence]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.full((length + 1,), 1 / (count * length))
    rows = torch.randint(0, vocabulary, (count, length + 1), generator=generator)
    return [TrainSequence(row, weights) for row in rows]


def _cross_entropy(logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch) -> Any:
    return -logprobs, {}


def main() -> None:
    setting.start()
    for size in DENSE:
        for precision in PRECISIONS:
            setting.forget()
            try:
                setting.write(measure(size, precision), "gpu_train")
            except ConfigError as error:  # a format that this GPU does not have
                print(f"{size} {precision}: {error}")


if __name__ == "__main__":
    main()
