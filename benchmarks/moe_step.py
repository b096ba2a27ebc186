"""Where a training step of a DeepSeek-V3-class MoE spends its time, and how far it is from the matmul floor.

The floor is the step's matrix products (counted by torch) at the rate of this machine's best large product:
no step can be faster. Shares are of a profiled step's wall time: the profiler makes dispatch look somewhat
larger than it is.
"""

import statistics
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import twins
from benchmarks.measure import one_thread, timed
from benchmarks.record import record
from megatron_r1.runtime.step_profile import KINDS, best_product, kind_of

SEQUENCES, LENGTH, ROUNDS = 16, 128, 3
VOCABULARY = 512
SHAPES: dict[str, dict[str, int]] = {
    "1M": {"hidden_size": 96, "num_layers": 4, "heads": 4, "moe": 64, "experts": 8},
    "5M": {"hidden_size": 192, "num_layers": 6, "heads": 6, "moe": 128, "experts": 8},
    "20M": {"hidden_size": 384, "num_layers": 6, "heads": 6, "moe": 320, "experts": 8},
}


def main() -> None:
    one_thread()
    layout = twins.start_alone()
    record("moe_step", [_row(size, layout) for size in SHAPES])


def _row(size: str, layout: Any) -> dict[str, Any]:
    model = policy(SHAPES[size], layout)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, VOCABULARY, (SEQUENCES, LENGTH + 1), generator=generator)

    def step() -> None:
        from megatron_r1.types import TrainSequence

        weights = torch.full((LENGTH + 1,), 1 / SEQUENCES / LENGTH)
        model.train_step(
            [TrainSequence(row, weights) for row in tokens],
            lambda logprobs, entropy, batch: (-logprobs, {}),
            lr=1e-3,
        )

    step()
    step_s = statistics.median(timed(step).cpu_s for _ in range(ROUNDS))
    with FlopCounterMode(display=False) as counter:
        step()
    flops, peak = counter.get_total_flops(), best_product(torch.device("cpu"))
    shares = _by_kind(step)
    parameters = sum(weight.numel() for weight in model.chunks[0].parameters())
    return {
        "parameters": f"{parameters / 1e6:.1f}M",
        "tokens a step": SEQUENCES * LENGTH,
        "step, CPU s": round(step_s, 3),
        "tokens/CPU s": round(SEQUENCES * LENGTH / step_s),
        "GFLOPs a step": round(flops / 1e9, 1),
        "best product, GFLOP/s": round(peak / 1e9),
        "floor, s": round(flops / peak, 3),
        "times the floor": round(step_s * peak / flops, 1),
        **{f"{kind}, %": round(100 * share) for kind, share in shares.items()},
        "rest and dispatch, %": round(100 * (1 - sum(shares.values()))),
    }


def policy(shape: dict[str, int], layout: Any) -> Any:
    from megatron_r1.backend.model.build import ModelOptions
    from megatron_r1.backend.policy import MegatronPolicy
    from megatron_r1.models.deepseek_v3 import DeepseekV3
    from megatron_r1.types import OptimizerOptions

    hidden, heads = shape["hidden_size"], shape["heads"]
    family = DeepseekV3(
        family="deepseek_v3", vocab_size=VOCABULARY, num_layers=shape["num_layers"], hidden_size=hidden,
        num_attention_heads=heads, q_lora_rank=hidden // 2, kv_lora_rank=hidden // 4,
        qk_head_dim=hidden // heads, qk_pos_emb_head_dim=16, v_head_dim=hidden // heads,
        ffn_hidden_size=3 * hidden, num_experts=shape["experts"], experts_per_token=2,
        moe_ffn_hidden_size=shape["moe"], num_expert_groups=4, groups_per_token=2, init_std=0.02,
    )  # fmt: skip
    policy = MegatronPolicy(family, layout, ModelOptions(), seed=0, eos_ids=(1,), tokens_per_pack=4096)
    policy.start_training(OptimizerOptions())
    return policy


def _by_kind(step: Any) -> dict[str, float]:
    """Shares of operators' own time."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        wall_s = sum(timed(step).wall_s for _ in range(ROUNDS))
    shares = dict.fromkeys(KINDS, 0.0)
    for event in found.key_averages():
        kind = kind_of(event.key)
        if kind in shares:
            shares[kind] += event.self_cpu_time_total / 1e6 / wall_s
    return shares


if __name__ == "__main__":
    main()
