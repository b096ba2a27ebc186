"""A GRPO step with rollouts ahead of training beside synchronous ones, on two ranks.

    python -m benchmarks.steps_ahead [--rounds 3]

Runs of tiny_zero's model, on two replicas and with its experts shared (EP2). It is untrained, so that an
output ends after each token with nearly the same probability: lengths have the long tail that rollouts ahead
are for. Stages take turns; a figure is the median of all steps of its kind but each stage's first two, by the
clock, so nothing else should run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from ruamel.yaml import YAML

from benchmarks.record import record

REPOSITORY = Path(__file__).parents[1]
TINY = REPOSITORY / "conf" / "tiny_zero.yaml"
PLUGINS = [str(REPOSITORY / "examples/toy/arithmetic.py")]
STEPS, WARM_UP, LIMIT = 10, 2, 256
AHEAD = (0, 1, 2)


def configuration(expert: int, rounds: int) -> dict[str, Any]:
    config = YAML(typ="safe").load(TINY.read_text(encoding="utf-8"))
    config["model"] |= {"max_position_embeddings": 512, "init_std": 0.02}
    config["layout"] |= {"expert": expert}
    config["plugins"] = PLUGINS
    stage = {
        "kind": "grpo",
        "data": {"chains": {"source": "arithmetic"}},
        "rewards": {"language": {}},
        "steps": STEPS,
        "questions": 16,
        "group_size": 16,
        "max_new_tokens": {"steps": {0: LIMIT}},
        "tokens_per_pack": 4096,
        "loss": {"rollout_correction": "truncate"},
        "optim": {"lr": 1e-9},
        "checkpoint_every": STEPS,
        "samples_every": STEPS,
        "guards": {"equal_rewards": False},
    }
    names = [(f"ahead{ahead}_{turn}", ahead) for turn in range(rounds) for ahead in AHEAD]
    config["stages"] = {name: {**stage, "rollout": {"max_off_policy_steps": ahead}} for name, ahead in names}
    return config


def steps_of(folder: Path, ahead: int, rounds: int) -> list[dict[str, float]]:
    """What the steps of one kind report."""
    return [
        json.loads(line)
        for turn in range(rounds)
        for line in (folder / f"ahead{ahead}_{turn}" / "metrics.jsonl").read_text().splitlines()[WARM_UP:]
    ]


def measured(expert: int, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, path = Path(scratch) / "run", Path(scratch) / "run.yaml"
        YAML().dump(configuration(expert, rounds), path)
        command = [sys.executable, "-m", "megatron_r1", "run", str(path), "--run-dir", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = {ahead: steps_of(folder, ahead, rounds) for ahead in AHEAD}

    def middle(ahead: int, *names: str) -> float:
        return median(sum(step[name] for name in names) for step in found[ahead])

    def rollout(ahead: int) -> float:
        return median(step["time/rollout"] * step["time/step_s"] for step in found[ahead])

    return [
        {
            "two ranks": "experts shared" if expert > 1 else "replicas",
            "steps_ahead": ahead,
            "tokens an output": round(middle(ahead, "rollout/length"), 1),
            "longest": round(middle(ahead, "rollout/length_max")),
            "s a step": round(middle(ahead, "time/step_s"), 3),
            "s a rollout": round(rollout(ahead), 3),
            "step, times faster": round(middle(0, "time/step_s") / middle(ahead, "time/step_s"), 2),
            "rollout, times faster": round(rollout(0) / rollout(ahead), 2),
            "updates old, mean": round(middle(ahead, "rollout/staleness"), 2) if ahead else 0,
        }
        for ahead in AHEAD
    ]


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    record("steps_ahead", [row for expert in (1, 2) for row in measured(expert, options.rounds)])


if __name__ == "__main__":
    main()
