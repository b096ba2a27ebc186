"""What the rollout engine's own ideas are worth: MLA's latents as its cache, and one prefill a group.

    python -m benchmarks.engine [--two-ranks]

The lean decoder next to the loop through Megatron's modules (`rollout_engine: modules`), and a group's shared
prompt next to prompts of which no two are the same, on a V3-class model and on a dense one.

--two-ranks: tiny_zero's model on two replicas, and with its experts on both (EP2), reached by the decoder's
own exchange and by Megatron's dispatcher, in turn. By the clock, so that nothing else should run.
"""

import argparse
import json
import os
import statistics
import tempfile
import warnings
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from benchmarks import moe_step, twins
from benchmarks.growth_ranks import free_port
from benchmarks.measure import Timing, in_turn, median_ratio, one_thread, rates, timed
from benchmarks.record import record
from benchmarks.steps_ahead import configuration

GROUPS, OUTPUTS, LENGTH = 4, 16, 128  # prompts as long as the outputs
# way -> ranks that share the experts, and whether the exchange may be as large as it likes or never used
APART = {"replicas": (1, True), "EP2, exchange": (2, True), "EP2, dispatcher": (2, False)}
ROUNDS, LIMIT, PROMPT = 3, 256, 20


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--two-ranks", action="store_true")
    if parser.parse_args().two_ranks:
        ports = [free_port() for _ in range(ROUNDS * len(APART))]
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_rank, (ports, folder), nprocs=2)  # type: ignore[attr-defined]
            record("engine --two-ranks", json.loads((Path(folder) / "rows.json").read_text()))
        return
    one_thread()
    layout = twins.start_alone()
    policies = {
        "V3-class 5M, MLA, 8 experts": moe_step.policy(moe_step.SHAPES["5M"], layout),
        "Qwen2 5M": twins.our_policy(twins.SHAPES["5M"], layout),
    }
    record("engine", [row for name, policy in policies.items() for row in _rows(name, policy)])


def _rows(name: str, policy: Any) -> list[dict[str, Any]]:
    policy.eos_id = -1  # all outputs are as long as they may be
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

    policy.rollout_engine = engine
    outputs = policy.generate(prompts.tolist(), Sampling(LENGTH, seed=1), keys=list(range(len(prompts))))
    assert all(len(output.token_ids) == LENGTH for output in outputs)


def _rank(rank: int, ports: list[int], folder: str) -> None:
    warnings.filterwarnings("ignore")
    one_thread()
    timings: dict[str, list[Timing]] = {}
    inside: dict[str, dict[str, int]] = {}
    for turn, port in enumerate(ports):
        way = list(APART)[turn % len(APART)]
        found, inside[way] = _apart(rank, port, *APART[way])
        timings.setdefault(way, []).extend(found)
    if rank == 0:
        rows = [_apart_row(way, timings[way], inside[way]) for way in APART]
        (Path(folder) / "rows.json").write_text(json.dumps(rows))


def _apart_row(way: str, timings: list[Timing], inside: dict[str, int]) -> dict[str, Any]:
    cpu_s, wall_s = (round(statistics.median(each), 3) for each in zip(*map(astuple, timings), strict=True))
    return {"two ranks": way, "s a rollout": wall_s, "CPU s a rank": cpu_s, **inside}


def _apart(rank: int, port: int, expert: int, exchange: bool) -> tuple[list[Timing], dict[str, int]]:
    """A rollout, twice, and what one layer of experts does while decoding."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from megatron_r1.backend import decode_mlp, expert_exchange, parallel, rollout
    from megatron_r1.backend.layout import Layout
    from megatron_r1.backend.model import ModelOptions
    from megatron_r1.backend.policy import MegatronPolicy
    from megatron_r1.models.deepseek_v3 import DeepseekV3
    from megatron_r1.types import Sampling

    layout = Layout(ranks=2, expert=expert)
    parallel.start(layout)
    expert_exchange.EXTRA_BYTES["cpu"] = 2**40 if exchange else -(2**40)
    model = DeepseekV3(**configuration(expert, ROUNDS)["model"])
    policy = MegatronPolicy(model, layout, ModelOptions(), seed=7, eos_id=1, tokens_per_pack=4096)
    draw = torch.Generator().manual_seed(rank)
    prompts = (
        torch.randint(2, model.vocab_size, (8, PROMPT), generator=draw).repeat_interleave(16, 0).tolist()
    )

    def sample(seed: int) -> int:
        keys = [1000 * rank + i for i in range(len(prompts))]
        outputs = policy.generate(prompts, Sampling(LIMIT, seed=seed), keys=keys)
        return max(policy.replicas.gather([len(output.token_ids) for output in outputs]))

    steps = sample(0)
    found = [timed(lambda seed=seed: sample(seed)) for seed in (1, 2)]
    (moe,) = (layer.mlp for layer in policy.chunks[0].decoder.layers if layer.is_moe_layer)
    with rollout.inference(policy.chunks):
        layer, x = decode_mlp.feed_forward(moe), torch.randn(64, model.hidden_size)
        layer(x, x, len(x))
        with torch.profiler.profile() as profile:
            layer(x, x, len(x))
    parallel.stop()
    events: Any = profile.events()
    collectives = sum(event.name.startswith("c10d::") for event in events)
    operators = sum(_is_operator(event) and not _is_operator(event.cpu_parent) for event in events)
    return found, {"steps": steps, "collectives a layer": collectives, "operators a layer": operators}


def _is_operator(event: Any) -> bool:
    return event is not None and event.name.startswith("aten::")


if __name__ == "__main__":
    main()
