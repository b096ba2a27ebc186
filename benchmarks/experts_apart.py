"""A rollout whose experts lie on two ranks, by the decoder's own exchange and by Megatron's dispatcher.

    python -m benchmarks.experts_apart

tiny_zero's model, untrained (lengths with a long tail): on two replicas, and with its experts shared (EP2) by
either way. Then one layer of it that sends each token to a single expert, where the exchange has more to
carry than the dispatcher, over the number of tokens: where the two cross is expert_exchange.EXTRA_BYTES; the
floor is two bare collectives of that size. All take turns. By the clock, so that nothing else should run.
"""

import json
import os
import statistics
import tempfile
import warnings
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from benchmarks.measure import Timing, free_port, one_thread, timed
from benchmarks.record import record
from benchmarks.steps_ahead import configuration

EXCHANGE, DISPATCHER = 2**40, -(2**40)  # the bytes that the exchange may carry beyond the dispatcher's
# way -> ranks that share the experts, and that
WAYS = {"replicas": (1, EXCHANGE), "EP2, exchange": (2, EXCHANGE), "EP2, dispatcher": (2, DISPATCHER)}
ROUNDS, ROLLOUTS, LIMIT = 3, 2, 256
QUESTIONS, GROUP, PROMPT = 8, 16, 20  # of a rank
TOKENS, TURNS = (8, 128, 1024, 4096, 16384), 12  # of a rank through one layer
ONE_EXPERT = {"experts_per_token": 1, "num_expert_groups": None, "groups_per_token": None}


def main() -> None:
    ports = [free_port() for _ in range(ROUNDS * len(WAYS) + 1)]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (ports, folder), nprocs=2)  # type: ignore[attr-defined]
        for part, rows in json.loads((Path(folder) / "rows.json").read_text()).items():
            record("experts_apart", rows, part=part)


def _rank(rank: int, ports: list[int], folder: str) -> None:
    warnings.filterwarnings("ignore")
    one_thread()
    timings: dict[str, list[Timing]] = {way: [] for way in WAYS}
    inside: dict[str, dict[str, int]] = {}
    for turn, port in enumerate(ports[:-1]):
        way = list(WAYS)[turn % len(WAYS)]
        found, inside[way] = _rollouts(rank, port, *WAYS[way])
        timings[way] += found
    rows = {
        "": [_row(way, timings[way], inside[way]) for way in WAYS],
        "one layer": _crossing(rank, ports[-1]),
    }
    if rank == 0:
        (Path(folder) / "rows.json").write_text(json.dumps(rows))


def _row(way: str, timings: list[Timing], inside: dict[str, int]) -> dict[str, Any]:
    cpu_s, wall_s = (round(statistics.median(each), 3) for each in zip(*map(astuple, timings), strict=True))
    return {"two ranks": way, "s a rollout": wall_s, "CPU s a rank": cpu_s, **inside}


def _policy(rank: int, port: int, expert: int, **changes: Any) -> Any:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from megatron_r1.backend.model.build import ModelOptions
    from megatron_r1.backend.parallel import process_groups
    from megatron_r1.backend.policy import MegatronPolicy
    from megatron_r1.config.layout import Layout
    from megatron_r1.models.deepseek_v3 import DeepseekV3

    layout = Layout(ranks=2, expert=expert)
    process_groups.start(layout)
    model = DeepseekV3(**configuration(expert, ROUNDS)["model"] | changes)
    return MegatronPolicy(model, layout, ModelOptions(), seed=7, eos_ids=(1,), tokens_per_pack=4096)


def _rollouts(rank: int, port: int, expert: int, extra: int) -> tuple[list[Timing], dict[str, int]]:
    """Some rollouts, how many steps they have, and what one layer of experts does in a step."""
    policy = _policy(rank, port, expert)
    from megatron_r1.backend.parallel import process_groups
    from megatron_r1.backend.rollout import engine as rollout
    from megatron_r1.backend.rollout.decoder import expert_parallel
    from megatron_r1.types import Sampling

    expert_parallel.EXTRA_BYTES["cpu"] = extra
    draw = torch.Generator().manual_seed(rank)
    prompts = torch.randint(2, 50, (QUESTIONS, PROMPT), generator=draw).repeat_interleave(GROUP, 0).tolist()

    def sample(seed: int) -> int:
        keys = [len(prompts) * rank + i for i in range(len(prompts))]
        outputs = policy.generate(prompts, Sampling(LIMIT, seed=seed), keys=keys)
        return max(policy.replicas.gather([len(output.token_ids) for output in outputs]))

    steps = sample(0)
    found = [timed(lambda seed=seed: sample(seed)) for seed in range(1, ROLLOUTS + 1)]
    with rollout.inference(policy.chunks):
        counts = _counted(policy)
    process_groups.stop()
    return found, {"steps": steps, **counts}


def _counted(policy: Any) -> dict[str, int]:
    layer, x = _layer(policy), torch.randn(QUESTIONS * GROUP, policy.chunks[0].config.hidden_size)
    layer(x)
    with torch.profiler.profile() as profile:
        layer(x)
    events: Any = profile.events()
    return {
        "collectives a layer": sum(event.name.startswith("c10d::") for event in events),
        "operators a layer": sum(_is_operator(e) and not _is_operator(e.cpu_parent) for e in events),
    }


def _is_operator(event: Any) -> bool:
    return event is not None and event.name.startswith("aten::")


def _layer(policy: Any) -> Any:
    """The layer with experts, for tokens [T, h]; the other rank feeds as many."""
    from megatron_r1.backend.rollout.decoder import mlp

    (moe,) = (layer.mlp for layer in policy.chunks[0].decoder.layers if layer.is_moe_layer)
    feed_forward = mlp.feed_forward(moe, None)
    return lambda x: feed_forward(x, x, len(x))


def _crossing(rank: int, port: int) -> list[dict[str, Any]]:
    policy = _policy(rank, port, 2, **ONE_EXPERT)
    from megatron_r1.backend.parallel import process_groups
    from megatron_r1.backend.rollout import engine as rollout

    with rollout.inference(policy.chunks):
        rows = [_both_ways(_layer(policy), count, policy.chunks[0].config.hidden_size) for count in TOKENS]
    process_groups.stop()
    return rows


def _both_ways(layer: Any, count: int, hidden: int) -> dict[str, Any]:
    from megatron_r1.backend.rollout.decoder import expert_parallel

    found: dict[str, list[float]] = {"exchange, ms": [], "dispatcher, ms": [], "floor, ms": []}
    x, arrived = torch.randn(count, hidden), torch.empty(2 * count, hidden)
    sent = x.repeat(2, 1)

    def bare() -> None:
        for _ in range(2):
            dist.all_to_all_single(arrived, sent)

    for _ in range(TURNS):
        for name, extra in zip(found, (EXCHANGE, DISPATCHER, None), strict=True):
            if extra is not None:
                expert_parallel.EXTRA_BYTES["cpu"] = extra
            dist.barrier()
            found[name].append(timed(bare if extra is None else lambda: layer(x)).wall_s)
    middle = {name: round(1e3 * statistics.median(each), 2) for name, each in found.items()}
    return {"tokens a rank": count, "KiB beyond the dispatcher's": count * hidden * 4 // 2**10, **middle}


if __name__ == "__main__":
    main()
