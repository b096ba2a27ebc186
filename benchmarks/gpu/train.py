"""Training on one GPU: tokens/s, MFU and memory. `python -m benchmarks.gpu.train`."""

import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import _setting as setting
from megatron_r1.backend.precision import FP8_RECIPES, Precision
from megatron_r1.errors import ConfigError
from megatron_r1.models.flops import token_cost
from megatron_r1.types import OptimizerOptions, PackedBatch, TrainSequence

PRECISIONS: list[Precision] = ["bf16", *FP8_RECIPES]  # type: ignore[list-item]


def measure(
    size: str,
    precision: Precision,
    *,
    sequence_length: int = 4096,
    sequences: int = 8,
    warmup: int = 3,
    steps: int = 10,
) -> setting.Measurement:
    """Updates on full sequences, one a pack, after a few that fill caches and allocate."""
    policy = setting.policy(size, precision, tokens_per_pack=sequence_length)
    policy.start_training(OptimizerOptions())
    batch = _batch(setting.SIZES[size].shape().vocab_size, sequence_length, sequences)
    for _ in range(warmup):
        policy.train_step(batch, _cross_entropy, lr=1e-5)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        policy.train_step(batch, _cross_entropy, lr=1e-5)
    torch.cuda.synchronize()
    speed = steps * sequences * sequence_length / (time.perf_counter() - began)
    peak = setting.peak_flops(precision)
    work = token_cost(setting.SIZES[size]).training_flops(sequence_length)
    return setting.Measurement(
        benchmark="train",
        size=size,
        precision=precision,
        tokens_per_s=speed,
        memory_gib=setting.memory_gib(),
        mfu=None if peak is None else speed * work / peak,
        device=setting.device_name(),
    )


def _batch(vocabulary: int, length: int, count: int) -> list[TrainSequence]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.full((length + 1,), 1 / (count * length))
    rows = torch.randint(0, vocabulary, (count, length + 1), generator=generator)
    return [TrainSequence(row, weights) for row in rows]


def _cross_entropy(logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch) -> Any:
    return -logprobs, {}


def main() -> None:
    setting.start()
    for size in setting.SIZES:
        for precision in PRECISIONS:
            setting.forget()
            try:
                setting.write(measure(size, precision), "gpu_train")
            except ConfigError as error:  # a format that this GPU does not have
                print(f"{size} {precision}: {error}")


if __name__ == "__main__":
    main()
