"""A run directory with values made up for the tests: shaped like a real run, measured by nobody."""

import math
import random

from megatron_r1.files.run_directory import Artifact
from megatron_r1.tracking.jsonl import JsonLines
from megatron_r1.tracking.samples import Sample, SamplesWriter

NUM_STEPS = 150
K = 16
RESOLVED = """\
# Values made up for a test of the report.
name: made-up
seed: 7
precision: fp32
model: {{family: deepseek_v3, num_layers: 2, hidden_size: 48, num_experts: 8}}
layout: {{ranks: 2, expert: 2, tensor: 1, pipeline: 1, distributed_optimizer: true}}
stages:
  textbook: {{kind: pretrain}}
  base: {{kind: pretrain, init: textbook}}
  before: {{kind: evaluate, init: base}}
  zero: {{kind: grpo, init: base}}
  after: {{kind: evaluate, init: zero}}
# this is {name}
"""
BEFORE = {
    "accuracy": 0.098,
    "cons": 0.231,
    "greedy": 0.167,
    "pass_at_k": 0.742,
    "format": 0.61,
    "language": 0.6,
    "target_share": 0.58,
    "target_share_en": 0.52,
    "target_share_zh": 0.64,
    "mixed": 0.12,
    "length": 12.3,
    "cut": 0.01,
}
AFTER = {
    "accuracy": 0.914,
    "cons": 0.982,
    "greedy": 0.945,
    "pass_at_k": 0.996,
    "format": 0.996,
    "language": 0.993,
    "target_share": 0.991,
    "target_share_en": 0.99,
    "target_share_zh": 0.992,
    "mixed": 0.014,
    "length": 26.1,
    "cut": 0.0,
}


def make_run(run_dir, *, hostile=False):
    """Write textbook, base, before, zero and after under run_dir; hostile: questions carry markup."""
    draw = random.Random(0)
    _pretrain(run_dir / "textbook", draw, steps=900, start=4.1, floor=0.62, init=None)
    _pretrain(run_dir / "base", draw, steps=600, start=1.4, floor=0.95, init="textbook")
    _evaluate(run_dir / "before", draw, BEFORE, init="base", skill=0.1, hostile=hostile)
    _grpo(run_dir / "zero", draw)
    _evaluate(run_dir / "after", draw, AFTER, init="zero", skill=0.9, hostile=hostile)
    return run_dir


def finish(directory, kind, init, metrics):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "resolved.yaml").write_text(RESOLVED.format(name=directory.name))
    inputs = {init: "fedcba"} if init else {}
    Artifact(directory.name, kind, {}, "0123456789abcdef", inputs, None, metrics).write(directory)


def _pretrain(directory, draw, *, steps, start, floor, init):
    writer = JsonLines(directory)
    for step in range(1, steps + 1):
        loss = floor + (start - floor) * math.exp(-step / (steps / 7)) + draw.gauss(0, 0.03)
        values = {
            "train/loss": loss,
            "train/mtp_loss": loss * 1.25 + draw.gauss(0, 0.04),
            "time/step_s": 0.055,
            "train/expert_load": 1.15 + 2 * math.exp(-step / 80) + abs(draw.gauss(0, 0.08)),
        }
        writer.log(step, values)
    finish(directory, "pretrain", init, {"train/loss": floor, "time/stage_s": steps * 0.055 + 4})


def _grpo(directory, draw):
    writer, samples = JsonLines(directory), SamplesWriter(directory, is_main=True)
    for step in range(1, NUM_STEPS + 1):
        skill = 1 / (1 + math.exp(-(step - 45) / 14))
        values = _rl_values(draw, skill, step)
        if step % 15 == 0 or step == 1:
            values |= _held_out(skill, draw)
        writer.log(step, values)
        samples.write([_sample(draw, i, step, 0.1 + 0.8 * skill, hostile=False) for i in range(8)])
    finish(directory, "grpo", "base", {"time/stage_s": NUM_STEPS * 0.32 + 11})


def _rl_values(draw, skill, step):
    def around(value, spread):
        return min(1.0, max(0.0, value + draw.gauss(0, spread)))

    accuracy, form, language = (
        around(0.1 + 0.81 * skill, 0.06),
        around(0.61 + 0.385 * skill, 0.02),
        0.6 + 0.39 * skill,
    )
    rollout = 0.56 + draw.gauss(0, 0.015)
    return {
        "train/reward": accuracy + 0.2 * form + 0.2 * language,
        "train/reward_accuracy": accuracy,
        "train/reward_format": form,
        "train/reward_language": around(language, 0.02),
        "train/zero_std_groups": around(0.02 + 0.3 * skill**3, 0.05),
        "train/kl": max(0.0, 0.35 * skill + draw.gauss(0, 0.015)),
        "train/entropy": max(0.02, 0.85 - 0.6 * skill + draw.gauss(0, 0.02)),
        "train/clipped": around(0.01, 0.004),
        "train/grad_norm": abs(0.9 - 0.4 * skill + draw.gauss(0, 0.15)),
        "train/lr": 4e-4,
        "train/expert_load": 1.3 + 0.15 * skill + abs(draw.gauss(0, 0.05)),
        "rollout/length": 12.2 + 13.8 * skill + draw.gauss(0, 0.5),
        "rollout/length_max": 40.0,
        "rollout/cut": around(0.01, 0.006),
        "rollout/drift": 1.0002 + abs(draw.gauss(0, 0.0001)),
        "time/rollout": rollout,
        "time/reward": 0.03,
        "time/logprobs": 0.13,
        "time/train": 0.25,
        "time/step_s": 0.32 + abs(draw.gauss(0, 0.02)),
    }


def _held_out(skill, draw):
    values = {f"eval/{name}": BEFORE[name] + (AFTER[name] - BEFORE[name]) * skill for name in BEFORE}
    return values | {"eval/accuracy_stderr": 0.02, "eval/cons_stderr": 0.025}


def _evaluate(directory, draw, values, *, init, skill, hostile):
    shares = [name for name in values if name != "length"]
    errors = {f"eval/{n}_stderr": math.sqrt(values[n] * (1 - values[n]) / 384) for n in shares}
    writer = SamplesWriter(directory, is_main=True)
    writer.write([_sample(draw, i, 0, skill, hostile=hostile) for i in range(24) for _ in range(K)])
    metrics = {f"eval/{name}": value for name, value in values.items()} | errors | {"time/stage_s": 9.0}
    finish(directory, "evaluate", init, metrics)


def _sample(draw, index, step, skill, *, hostile):
    a, b, c = index % 9 + 1, (index * 5) % 9 + 1, (index * 7) % 5 + 1
    chinese, right = index % 2 == 1, draw.random() < skill
    answer = a + b - c if right else a + b - c + draw.choice([-2, -1, 1, 3])
    plus, minus, equals, then = ("加", "减", "得", "再") if chinese else ("plus", "minus", "is", "then")
    chain = (
        f"<think> {a} {plus} {b} {equals} {a + b} ; {then} {a + b} {minus} {c} {equals} {answer} ; </think>"
    )
    if draw.random() > 0.3 + skill:
        chain = ""
    second = f" wait {answer}" if draw.random() < 0.12 * (1 - skill) else ""
    markup = "<script>alert('x')</script>" if hostile else ""
    return Sample(
        step=step,
        id=f"{index * 7919 % 1000:04d}",
        task="integer",
        language="zh" if chinese else "en",
        question=f"{'计算' if chinese else 'compute'} {a} + {b} - {c}{markup}",
        reference=str(a + b - c),
        text=f"{chain}{second}<answer> {answer} </answer>{markup}",
        reward=1.4 if right else 0.4,
        parts={
            "accuracy": {"value": float(right), "note": "" if right else f"{answer} is not {a + b - c}"},
            "format": {"value": float(bool(chain)), "note": ""},
            "language": {"value": 1.0, "note": ""},
        },
        length=26 if chain else 5,
        finished=True,
        policy_version=step,
    )
