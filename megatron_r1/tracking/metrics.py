"""Metrics under stable names: the table that defines them, and the check that holds runs to it.

Names are `phase/quantity`. `<...>` in a name stands for one word: the table has one row for all
rewards. A name that the table lacks can't be written, so that plots and dashboards stay valid. A plug-in
that computes a metric of its own, such as a stage or a loss, adds its rows: METRICS = {name: Metric(...)}.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from megatron_r1 import registry
from megatron_r1.errors import ConfigError, GateError

Direction = Literal["up", "down", ""]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means, its unit, and which way is better ("" where neither is)."""

    meaning: str
    unit: str
    direction: Direction = ""


METRICS: dict[str, Metric] = {
    # The update
    "train/loss": Metric("loss that the optimizer sees", "nats", "down"),
    "train/mtp_loss": Metric("loss of the multi-token prediction head", "nats", "down"),
    "train/reward": Metric("mean combined reward of the step's samples", "points", "up"),
    "train/reward_on_<domain>": Metric("mean combined reward on the questions of one source", "points", "up"),
    "train/reward_<part>": Metric("mean of one reward before its weight", "points", "up"),
    "train/zero_std_groups": Metric("groups with equal rewards: they give no gradient", "share", "down"),
    "train/ungradable_groups": Metric("groups with fewer than two gradable outputs", "share", "down"),
    "train/ungraded": Metric("sampled outputs that no reward can judge", "share", "down"),
    "train/dropped_groups": Metric("groups left out of the update (ungradable or filtered)", "share", "down"),
    "train/kl": Metric("k3 estimate of the distance to the reference policy", "nats/token"),
    "train/kl_k1": Metric("the same distance by k1: unbiased, noisy, can be negative", "nats/token"),
    "train/entropy": Metric("entropy of the policy's next-token distribution", "nats/token"),
    "train/ratio": Metric("mean probability ratio of the updated to the sampling policy", "ratio"),
    "train/clipped": Metric("tokens whose ratio the objective clips", "share", "down"),
    "train/clip_low": Metric("of these, by the lower bound", "share", "down"),
    "train/clip_high": Metric("of these, by the upper bound", "share", "down"),
    "train/clip_delta": Metric("of these, by the upper bound for negative advantages", "share", "down"),
    "train/correction": Metric("weight of the policy term for the gap of trainer and sampler", "ratio"),
    "train/soft_weight": Metric("weight of an output's gradient by objective vespo; 1 on-policy", "ratio"),
    "train/off_policy": Metric("tokens of outputs dropped as too far off-policy", "share", "down"),
    "train/grad_norm": Metric("norm of the gradient before clipping", "norm"),
    "train/lr": Metric("learning rate", "per update"),
    "train/expert_load": Metric("tokens of the busiest expert over the mean of its layer", "ratio", "down"),
    "train/too_long": Metric("chats left out as too long since the stage began", "chats"),
    "train/tokens_per_s": Metric("tokens trained on, all ranks", "tokens/s", "up"),
    "train/pair_accuracy": Metric("pairs that the reward model orders as labelled", "share", "up"),
    "train/point_accuracy": Metric(
        "responses that the reward model calls good or bad as labelled", "share", "up"
    ),
    "train/margin": Metric("reward model: score of the chosen minus that of the rejected", "points", "up"),
    # Sampling
    "rollout/length": Metric("mean length of a response", "tokens"),
    "rollout/length_on_<domain>": Metric("mean length on the questions of one source", "tokens"),
    "rollout/length_max": Metric("longest response of the step", "tokens"),
    "rollout/cut": Metric("responses cut at the maximum length", "share", "down"),
    "rollout/drift": Metric(
        "exp of the mean absolute gap of rollout and training log-prob; 1 is none", "ratio", "down"
    ),
    "rollout/staleness": Metric(
        "updates since a token was drawn, with max_off_policy_steps", "updates", "down"
    ),
    "rollout/staleness_max": Metric("those of the oldest token", "updates", "down"),
    "rollout/carried": Metric("tokens drawn before this step's rollout", "share"),
    "rollout/tokens_per_s": Metric("tokens sampled, all ranks", "tokens/s", "up"),
    "rollout/accepted": Metric(
        "drafts of rollout.speculation that were the token sampled there", "share", "up"
    ),
    "rollout/kept": Metric("samples that rejection sampling keeps", "share"),
    "rollout/dropped_<why>": Metric("samples that rejection sampling drops for one reason", "share"),
    "refit/bytes": Metric("sent between ranks to give the rollout's layout its weights", "bytes", "down"),
    "refit/seconds": Metric("copying and comparing these weights; part of time/rollout", "s", "down"),
    # Where the time goes
    "time/rollout": Metric("sampling", "share of the step"),
    "time/reward": Metric("grading", "share of the step"),
    "time/logprobs": Metric("log-probs of the old and the reference policy", "share of the step"),
    "time/train": Metric("forward, backward and optimizer", "share of the step"),
    "time/step_s": Metric("one step", "s", "down"),
    "time/stage_s": Metric("the whole stage, start to artifact", "s", "down"),
    "memory/peak_gib": Metric("most memory of a rank: of its GPU, or resident on the CPU", "GiB", "down"),
    # Held-out questions
    "eval/accuracy": Metric("right answers, mean over samples and questions (pass@1)", "share", "up"),
    "eval/accuracy_on_<domain>": Metric("pass@1 on the questions of one source", "share", "up"),
    "eval/cons_on_<domain>": Metric("cons@k on the questions of one source", "share", "up"),
    "eval/format_on_<domain>": Metric("the form asked for, on the questions of one source", "share", "up"),
    "eval/language_on_<domain>": Metric("words in the question's language, of one source", "share", "up"),
    "eval/mixed_on_<domain>": Metric("responses that mix languages, of one source", "share", "down"),
    "eval/reward_<name>": Metric("mean of a reward on held-out prompts that it judges", "points", "up"),
    "eval/reward_<name>_on_<domain>": Metric("the same, on the prompts of one source", "points", "up"),
    "eval/score_<model>": Metric("mean score of a reward model on held-out prompts", "points", "up"),
    "eval/score_<model>_on_<domain>": Metric("the same, on the prompts of one source", "points", "up"),
    "eval/accuracy_<language>": Metric("pass@1 on the questions in one language", "share", "up"),
    "eval/questions": Metric("held-out questions asked, each once", "questions"),
    "eval/ungraded": Metric("held-out samples that nothing can grade, where there are any", "share", "down"),
    "eval/pass_at_k": Metric("questions with a right answer among k samples", "share", "up"),
    "eval/cons": Metric(
        "questions whose majority of k answers is right; 1/2 and 0.5 are one (cons@k)", "share", "up"
    ),
    "eval/greedy": Metric("right answers at temperature 0", "share", "up"),
    "eval/format": Metric("responses in the form that the template asks for", "share", "up"),
    "eval/language": Metric("words of the reasoning in the question's language", "share", "up"),
    "eval/target_share": Metric("responses written mostly in the question's language", "share", "up"),
    "eval/target_share_<language>": Metric("the same, on one language's questions", "share", "up"),
    "eval/mixed": Metric("responses that mix languages", "share", "down"),
    "eval/length": Metric("mean length of a response", "tokens"),
    "eval/cut": Metric("responses cut at the maximum length", "share", "down"),
    "eval/accepted": Metric("drafts of rollout.speculation that were the token sampled there", "share", "up"),
    "eval/loss": Metric("loss on held-out documents", "nats/token", "down"),
    "eval/preference_accuracy": Metric(
        "held-out preferences that the reward model agrees with", "share", "up"
    ),
    "eval/preference_loss": Metric("loss of the reward model on them", "nats", "down"),
    "eval/preference_calibration": Metric("its mean gap of confidence and accuracy", "share", "down"),
    "eval/preference_length_bias": Metric("correlation of its scores with lengths", "correlation"),
    # Reward hacking, on held-out general prompts
    "watch/score_<model>": Metric("score of a reward model: in training, or kept out of it", "points", "up"),
    "watch/length_bias_<model>": Metric("correlation of its scores with the lengths", "correlation"),
    "watch/score_<model>_on_<domain>": Metric("the same, on the prompts of one source", "points", "up"),
    "watch/judged": Metric("summaries that the judge calls right", "share", "up"),
    "watch/judged_on_<domain>": Metric("the same, on the prompts of one source", "share", "up"),
    "watch/length": Metric("mean length of a response", "tokens"),
    "watch/summary": Metric("responses that end in a summary", "share", "up"),
    "eval/<metric>_stderr": Metric("standard error of that metric over the questions", "as the metric"),
}


STDERR = "eval/<metric>_stderr"
NAME = re.compile(r"[a-z][a-z_]*/[a-z0-9_]+")


def rows() -> Mapping[str, Metric]:
    """METRICS and the rows of plug-ins. ConfigError: one that the table has already, or that is no row."""
    found = dict(METRICS)
    for path, own in registry.metric_rows():
        for name, metric in own.items():
            if not isinstance(metric, Metric) or not NAME.fullmatch(name):
                raise ConfigError(f"{path}: METRICS: {name!r}: write 'phase/quantity': Metric(meaning, unit)")
            if name in found or any(_covers(pattern, name) for pattern in METRICS):
                raise ConfigError(f"{path}: METRICS: {name!r} has a row already; take another name")
            found[name] = metric
    return found


@cache
def describe(name: str) -> Metric | None:
    """The table's row for a metric, an exact name before a pattern; None if it has none."""
    if name in rows():
        return rows()[name]
    if name.startswith("eval/") and name.endswith("_stderr"):
        return METRICS[STDERR] if describe(name.removesuffix("_stderr")) else None
    return next((METRICS[pattern] for pattern in METRICS if _covers(pattern, name)), None)


def _covers(pattern: str, name: str) -> bool:
    if pattern == STDERR or "<" not in pattern:
        return False
    return re.fullmatch(re.sub(r"<\w+>", "[a-z0-9_]+", pattern), name) is not None


def require_valid(metrics: Mapping[str, float], *, step: int, where: str) -> None:
    """Raise GateError for a number that is not finite: call it on every rank. Each name needs a row."""
    for name, value in metrics.items():
        assert describe(name) is not None, f"metric {name!r} has no row in tracking/metrics.py or METRICS"
        if not math.isfinite(value):
            raise GateError(
                f"{where}: {name} is {value} at step {step}; the run has diverged: "
                "lower the learning rate and continue from the last checkpoint"
            )


def metrics_page() -> str:
    """docs/metrics.md, made from the table."""
    better = {"up": "higher", "down": "lower", "": ""}
    rows = [
        f"| `{name}` | {metric.meaning} | {metric.unit} | {better[metric.direction]} |"
        for name, metric in METRICS.items()
    ]
    head = [
        "# Metrics",
        "",
        "The names under which every run writes `metrics.jsonl` and TensorBoard events; they stay stable.",
        "A `<word>` stands for any one: `train/reward_<part>` covers `train/reward_format`. Shares run from",
        "0 to 1. This page is made from the table in `megatron_r1/tracking/metrics.py`:",
        "`python -m megatron_r1.tracking.metrics > docs/metrics.md`.",
        "",
        "| name | meaning | unit | better |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(metrics_page())
