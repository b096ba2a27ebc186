"""Sampling on one GPU: tokens/s and memory. `python -m benchmarks.gpu.rollout`."""

import time

import torch

from benchmarks.gpu import _setting as setting
from benchmarks.gpu.peaks import wait
from megatron_r1.backend.rollout.engine import Engine
from megatron_r1.config.rollout import conflicts, model_features
from megatron_r1.types import Sampling


def measure(
    size: str,
    *,
    engine: Engine = "megatron",
    prompts: int = 16,
    group_size: int = 16,
    prompt_length: int = 128,
    new_tokens: int = 512,
) -> setting.Measurement:
    """Groups of outputs in bf16, as grpo samples them; random weights, so that hardly any row ends early."""
    policy = setting.policy(size, "bf16", tokens_per_pack=prompt_length + new_tokens)
    policy.rollout_options.engine = engine
    generator = torch.Generator().manual_seed(0)
    vocabulary = setting.SIZES[size].shape().vocab_size
    rows = torch.randint(2, vocabulary, (prompts, prompt_length), generator=generator).tolist()
    asked = [row for row in rows for _ in range(group_size)]
    keys = list(range(len(asked)))
    policy.generate(asked, Sampling(8), keys=keys)
    wait()
    began = time.perf_counter()
    outputs = policy.generate(asked, Sampling(new_tokens), keys=keys)
    wait()
    sampled = sum(len(output.token_ids) for output in outputs)
    return setting.Measurement(
        benchmark=f"rollout, {engine}",
        size=size,
        precision="bf16",
        tokens_per_s=sampled / (time.perf_counter() - began),
        memory_gib=setting.memory_gib(),
        device=setting.device_name(),
    )


def main() -> None:
    setting.start()
    for size, family in setting.SIZES.items():
        for engine in ("megatron", "dynamic"):
            if not list(conflicts(engine, model_features(family))):
                setting.forget()
                setting.write(measure(size, engine=engine), "gpu_rollout")


if __name__ == "__main__":
    main()
