"""Which charts a stage gets: the paper's two, then what tells whether to trust them."""

from megatron_r1.report.plot import Chart, Point, Series, line_chart, stacked_chart
from megatron_r1.report.record import StageRecord

TIME_PARTS = ("rollout", "reward", "logprobs", "train")


def accuracy_chart(stage: StageRecord, before: StageRecord | None) -> Chart:
    """Figure 2 of the paper: pass@1 and the majority vote over the steps of RL."""
    base = before.result("eval/pass_at_k") if before is not None else None
    series = [
        _held_out(stage, "eval/accuracy", "pass@1"),
        _held_out(stage, "eval/cons", "cons@k"),
        Series("training questions", stage.series("train/reward_accuracy"), style="noisy"),
        Series("pass@k before RL", [] if base is None else [(0.0, base)], style="level"),
    ]
    caption = (
        "Held-out questions: right answers and right majority votes of k samples; bands are standard errors. "
        "Dashed: the questions that the model already solved before RL in at least one of k tries."
    )
    if not stage.series("eval/accuracy"):
        caption = "Held-out accuracy was not measured during RL; training questions only."
    return line_chart("Accuracy over RL steps", series, unit="share", caption=caption, low=0, high=1)


def length_chart(stage: StageRecord) -> Chart:
    """Figure 3 of the paper: the mean length of a response over the steps of RL."""
    series = [
        Series("training questions", stage.series("rollout/length"), style="noisy"),
        Series("held-out questions", stage.series("eval/length"), style="dots"),
    ]
    caption = "Tokens of a response. Faint: each step; strong: a running mean."
    return line_chart("Mean response length", series, unit="tokens", caption=caption, low=0)


def rl_charts(stage: StageRecord) -> list[Chart]:
    """What stands behind the paper's two: rewards, language, distance, health and time."""
    return [
        line_chart(
            "Rewards",
            _noisy(stage, {"train/reward": "combined"} | _names(stage, "train/reward_")),
            unit="points",
            caption="Means over the step's samples: the combined reward, and its parts before their weights.",
            low=0 if _lowest(stage, "train/reward") >= 0 else None,
        ),
        _language_chart(stage),
        line_chart(
            "Distance from the reference",
            _noisy(stage, {"train/kl": "KL (k3)"}),
            unit="nats/token",
            caption="KL of the policy to the reference model.",
            low=0,
        ),
        line_chart(
            "Entropy",
            _noisy(stage, {"train/entropy": "entropy"}),
            unit="nats/token",
            caption="Of the next-token distribution: near 0, all samples of a group are the same.",
            low=0,
        ),
        line_chart(
            "Rollout against training",
            _noisy(stage, {"rollout/drift": "drift"}),
            unit="ratio",
            caption="exp of the mean gap of the two engines' log-probs; 1 means that they agree.",
        ),
        line_chart(
            "Groups and tokens without a gradient",
            _noisy(
                stage,
                {
                    "train/zero_std_groups": "equal rewards",
                    "train/dropped_groups": "dropped",
                    "train/clipped": "clipped tokens",
                    "rollout/cut": "cut responses",
                },
            ),
            unit="share",
            caption="Groups whose samples all score the same or are left out, clipped tokens, cut responses.",
            low=0,
        ),
        line_chart(
            "Gradient norm",
            _noisy(stage, {"train/grad_norm": "norm"}),
            unit="norm",
            caption="Before clipping.",
            low=0,
        ),
        expert_chart(stage),
        time_chart(stage),
    ]


def watch_charts(stage: StageRecord) -> list[Chart]:
    """Reward hacking: scores that rise while the judged quality does not."""
    judged = {"watch/judged": "judged"} | _names(stage, "watch/judged_") | {"watch/summary": "with a summary"}
    return [
        line_chart(
            "Held-out general prompts: the judge",
            [Series(label, stage.series(metric), style="dots") for metric, label in judged.items()],
            unit="share",
            caption="What the judge says. Scores that rise beside it without it are a hacked reward model.",
            low=0,
            high=1,
        ),
        line_chart(
            "Held-out general prompts: the reward models",
            [Series(label, stage.series(metric), style="dots")
             for metric, label in _names(stage, "watch/score_").items()],
            unit="points",
            caption="Mean scores of the reward models, on all prompts and by their source.",
        ),
    ]  # fmt: skip


def loss_chart(stage: StageRecord) -> Chart:
    series = [
        *_noisy(stage, {"train/loss": "training", "train/mtp_loss": "MTP head"}),
        Series("held out", stage.series("eval/loss"), style="dots"),
    ]
    return line_chart(
        f"{stage.name}: loss", series, unit="nats/token", caption=f"Stage of kind {stage.kind}."
    )


def expert_chart(stage: StageRecord) -> Chart:
    return line_chart(
        "Expert load",
        _noisy(stage, {"train/expert_load": f"{stage.name}: busiest expert / mean"}),
        unit="ratio",
        caption="Tokens of the busiest expert over the mean of its layer; 1 is perfect balance.",
        low=1,
    )


def time_chart(stage: StageRecord) -> Chart:
    """The shares of a step, stacked, with what is left as "other"."""
    parts = {name: dict(stage.series(f"time/{name}")) for name in TIME_PARTS}
    parts = {name: values for name, values in parts.items() if values}
    steps = sorted(set[float]().union(*parts.values()))
    points: dict[str, list[Point]] = {
        name: [(step, values.get(step, 0.0)) for step in steps] for name, values in parts.items()
    }
    if points:
        used = [sum(values.get(step, 0.0) for values in parts.values()) for step in steps]
        points["other"] = [(step, max(0.0, 1.0 - share)) for step, share in zip(steps, used, strict=True)]
    series = [Series(name, values) for name, values in points.items()]
    caption = "Shares of a step's wall clock; the legend gives their means. Evaluation is not part of a step."
    return stacked_chart("Where the time goes", series, caption=caption)


def _language_chart(stage: StageRecord) -> Chart:
    held_out = {"eval/language": "words", "eval/target_share": "responses"}
    held_out |= {name: f"responses, {word}" for name, word in _names(stage, "eval/target_share_").items()}
    held_out |= {"eval/mixed": "mixed responses"}
    series = [_held_out(stage, metric, label) for metric, label in held_out.items()]
    series.append(Series("words, training", stage.series("train/reward_language"), style="noisy"))
    caption = (
        "Words and responses in the language of the question, and responses that mix languages. "
        "A single language's line that falls is a policy that drifts to the other one."
    )
    return line_chart("Language of the reasoning", series, unit="share", caption=caption, low=0, high=1)


def _held_out(stage: StageRecord, metric: str, label: str) -> Series:
    points = stage.series(metric)
    errors = dict(stage.series(f"{metric}_stderr"))
    band = [errors.get(step, 0.0) for step, _ in points] if errors else []
    return Series(label, points, error=band, style="dots")


def _noisy(stage: StageRecord, labels: dict[str, str]) -> list[Series]:
    return [Series(label, stage.series(metric), style="noisy") for metric, label in labels.items()]


def _names(stage: StageRecord, prefix: str) -> dict[str, str]:
    """Measured metrics that share a prefix, labelled by what follows it."""
    names = {name: name.removeprefix(prefix) for name in stage.measured(prefix)}
    return {name: label for name, label in names.items() if not label.endswith("stderr")}


def _lowest(stage: StageRecord, metric: str) -> float:
    return min((value for _, value in stage.series(metric)), default=0.0)
