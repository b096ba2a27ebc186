"""What the rollout engine's own ideas are worth: MLA's latents as its cache, and one prefill a group.

    python -m benchmarks.engine

The lean decoder next to the loop through Megatron's modules (`rollout.engine: modules`), and a group's shared
prompt next to prompts of which no two are the same, on a V3-class model and on a dense one.
"""

from typing import Any

import torch

from benchmarks import moe_step, twins
from benchmarks.measure import in_turn, median_ratio, one_thread, rates
from benchmarks.record import record

GROUPS, OUTPUTS, LENGTH = 4, 16, 128  # prompts as long as the outputs


def main() -> None:
    one_thread()
    layout = twins.start_alone()
    policies = {
        "V3-class 5M, MLA, 8 experts": moe_step.policy(moe_step.SHAPES["5M"], layout),
        "Qwen2 5M": twins.our_policy(twins.SHAPES["5M"], layout),
    }
    record("engine", [row for name, policy in policies.items() for row in _rows(name, policy)])


def _rows(name: str, policy: Any) -> list[dict[str, Any]]:
    policy.eos_ids = (-1,)  # all outputs are as long as they may be
    draw = torch.Generator().manual_seed(0)
    shared = torch.randint(2, 500, (GROUPS, LENGTH), generator=draw).repeat_interleave(OUTPUTS, 0)
    apart = shared.clone()
    apart[:, -1] = torch.arange(len(apart)) + 2  # no two prompts are the same
    ways = {
        "a prefill a group, lean": (shared, "megatron"),
        "a prefill an output, lean": (apart, "megatron"),
        "a prefill a group, modules": (shared, "modules"),
    }
    timings = in_turn({way: lambda way=way: _sample(policy, *ways[way]) for way in ways})
    found = rates(timings, tokens=len(shared) * LENGTH)
    best = "a prefill a group, lean"
    return [
        {
            "model": name,
            "way": way,
            "tokens/CPU s": found[way]["tokens_per_cpu_s"],
            "the first is so many times faster": median_ratio(timings, ours=best, theirs=way),
        }
        for way in ways
    ]


def _sample(policy: Any, prompts: torch.Tensor, engine: str) -> None:
    from megatron_r1.types import Sampling

    policy.rollout_options.engine = engine
    outputs = policy.generate(prompts.tolist(), Sampling(LENGTH, seed=1), keys=list(range(len(prompts))))
    assert all(len(output.token_ids) == LENGTH for output in outputs)


if __name__ == "__main__":
    main()
