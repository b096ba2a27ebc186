"""What judging costs a rejection sampling: tokens a second beside those of the engine alone.

    python -m benchmarks.rejection [--prompts 3072] [--rounds 3]

A run of tiny_zero's textbook model, made wider, on two ranks, then stages in turn: samples judged as R1's are
(verdict, filters, decontamination, near-duplicates), and the same samples hardly looked at, whose shards'
seconds are the engine's. Tokens a second of the first are those of the whole stage, the choice over all
shards included, without the start of its ranks; both by the clock, so nothing else should run.
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
SAMPLES = 4


def configuration(prompts: int, rounds: int, hidden: int) -> dict[str, Any]:
    yaml = YAML(typ="safe")
    config = yaml.load(TINY.read_text(encoding="utf-8"))
    questions = {"chains": {"source": "arithmetic"}}
    common = {
        "kind": "rejection_sampling",
        "init": "textbook",
        "data": questions,
        "prompts": prompts,
        "samples": SAMPLES,
        "max_new_tokens": 40,
    }
    judged = {
        "filters": {"min_language": 0.95, "max_paragraph": 400},
        "decontaminate": {"data": questions, "questions": 288, "ngram": 16},
        "per_prompt": 2,
    }
    unjudged = {
        "graders": {"accuracy": None, "format": {}},
        "at_least": 0.0,
        "filters": {"form": None, "min_tokens": 35},  # decides before the others look at the text
        "duplicates": None,
    }
    widths = {"hidden_size": hidden, "ffn_hidden_size": 4 * hidden, "moe_ffn_hidden_size": hidden // 2}
    config["model"] |= widths
    textbook = {**config["stages"]["textbook"], "steps": 150, "until": None}
    stages: dict[str, Any] = {"textbook": textbook}
    for i in range(rounds):
        stages[f"judged{i}"] = common | judged
        stages[f"engine{i}"] = common | unjudged
    return config | {"name": "rejection", "plugins": PLUGINS, "stages": stages}


def measured(stage: Path) -> dict[str, float]:
    """tokens, seconds of sampling and of the whole stage."""
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "rollout/tokens_per_s" in line]
    whole = json.loads((stage / "artifact.json").read_text())["metrics"]["time/stage_s"]
    return {
        "tokens": sum(step["time/step_s"] * step["rollout/tokens_per_s"] for step in steps),
        "sampling_s": sum(step["time/step_s"] for step in steps),
        "stage_s": whole,
    }


def rows(run_dir: Path, rounds: int) -> list[dict[str, Any]]:
    engine = [measured(run_dir / f"engine{i}") for i in range(rounds)]
    judged = [measured(run_dir / f"judged{i}") for i in range(rounds)]
    alone = [one["tokens"] / one["sampling_s"] for one in engine]
    whole = [one["tokens"] / one["stage_s"] for one in judged]
    return [
        {
            "samples' tokens": round(judged[0]["tokens"]),
            "engine, tokens/s": round(median(alone)),
            "while it judges": round(median(one["tokens"] / one["sampling_s"] for one in judged)),
            "whole stage": round(median(whole)),
            "whole / engine": round(median(w / a for w, a in zip(whole, alone, strict=True)), 2),
            "asked": 0.9,
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--prompts", type=int, default=1536)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, run_dir = Path(folder) / "rejection.yaml", Path(folder) / "run"
        with path.open("w", encoding="utf-8") as file:
            YAML().dump(configuration(args.prompts, args.rounds, args.hidden), file)
        command = [sys.executable, "-m", "megatron_r1", "run", str(path), "--run-dir", str(run_dir)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        record("rejection", rows(run_dir, args.rounds))


if __name__ == "__main__":
    main()
