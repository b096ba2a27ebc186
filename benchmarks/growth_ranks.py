"""How a training step grows with ranks, the tokens of each rank fixed: beside one rank's, which is the line.

    python -m benchmarks.growth_ranks

A V3-class MoE of 5M parameters on gloo ranks of this machine, 2,048 tokens a rank. All cases take turns, on
the same processes. "strangers" are two ranks that know nothing of each other: what they take longer than one
is the machine's (its memory, its cores' clock), the rest of a layout's is its communication and its waiting.
The clock counts, so that nothing else should run; CPU seconds (of the rank that takes most) leave the waiting
out.
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
import torch.multiprocessing

from benchmarks import moe_step
from benchmarks.measure import Timing, free_port, one_thread, timed
from benchmarks.record import record

SEQUENCES, LENGTH = 16, 128  # of a rank
STEPS, ROUNDS = 3, 4
ALONE, STRANGERS = "1 rank", "2 strangers"
LAYOUTS: dict[str, dict[str, int]] = {"DP2": {}, "EP2": {"expert": 2}}  # of two ranks
CASES = (ALONE, STRANGERS, *LAYOUTS)


def main() -> None:
    ports = [[free_port() for _ in range(2)] for _ in range(ROUNDS * len(CASES))]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (ports, folder), nprocs=2)  # type: ignore[attr-defined]
        found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(2)]
    record("growth_ranks", [_row(case, found) for case in CASES])


def _row(case: str, found: list[dict[str, list[list[float]]]]) -> dict[str, Any]:
    cpu_s, wall_s = (_seconds(found, case, clock) for clock in (0, 1))
    one_cpu_s, one_wall_s = (_seconds(found, ALONE, clock) for clock in (0, 1))
    return {
        "ranks": case,
        "tokens a step": SEQUENCES * LENGTH * (2 if case in LAYOUTS else 1),
        "CPU s a step": round(cpu_s, 3),
        "times one rank's": round(cpu_s / one_cpu_s, 2),
        "s a step": round(wall_s, 3),
        "times one rank's, by the clock": round(wall_s / one_wall_s, 2),
        "asked": "1.1 at most",
    }


def _seconds(found: list[dict[str, list[list[float]]]], case: str, clock: int) -> float:
    """The median step, each as long as its slower rank's."""
    of_ranks = [rank[case] for rank in found if case in rank]
    return statistics.median(max(each[clock] for each in step) for step in zip(*of_ranks, strict=True))


def _rank(rank: int, ports: list[list[int]], folder: str) -> None:
    """All rounds on one process; where only the other has work, it waits for it in the next start."""
    warnings.filterwarnings("ignore")
    one_thread()
    timings: dict[str, list[Timing]] = {}
    for turn, of_turn in enumerate(ports):
        case = CASES[turn % len(CASES)]
        if case in LAYOUTS:
            timings.setdefault(case, []).extend(_steps(rank, 2, of_turn[0], LAYOUTS[case]))
        elif case == STRANGERS or rank == 0:
            timings.setdefault(case, []).extend(_steps(0, 1, of_turn[rank], {}))
    plain = {case: [astuple(timing) for timing in each] for case, each in timings.items()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(plain))


def _steps(rank: int, ranks: int, port: int, given: dict[str, int]) -> list[Timing]:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from megatron_r1.backend.parallel import process_groups
    from megatron_r1.config.layout import Layout
    from megatron_r1.types import TrainSequence

    layout = Layout(ranks=ranks, **given)
    process_groups.start(layout)
    policy = moe_step.policy(moe_step.SHAPES["5M"], layout)
    generator = torch.Generator().manual_seed(rank)
    tokens = torch.randint(2, moe_step.VOCABULARY, (SEQUENCES, LENGTH + 1), generator=generator)
    weights = torch.full((LENGTH + 1,), 1 / ranks / SEQUENCES / LENGTH)
    sequences = [TrainSequence(row, weights) for row in tokens]

    def step() -> None:
        policy.train_step(sequences, lambda logprobs, entropy, batch: (-logprobs, {}), lr=1e-3)

    step()
    found = [timed(step) for _ in range(STEPS)]
    process_groups.stop()
    return found


if __name__ == "__main__":
    main()
