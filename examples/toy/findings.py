"""What a toy run shows of the paper and what it does not, in sentences with the run's own numbers.

RL on a small model looks like the paper's figures and is mostly something else; each finding names one
claim of the paper, what was measured here, and which of the two it is.
"""

from collections.abc import Sequence

from megatron_r1.report.findings import Finding
from megatron_r1.report.plot import Point, number
from megatron_r1.report.record import StageRecord


def findings(
    rl: StageRecord, before: StageRecord | None, after: StageRecord | None, reflection: Sequence[Point]
) -> list[Finding]:
    """The findings about one RL stage: from the evaluations around it, else from its own held-out curve."""
    return [
        _gain(*_held_out(rl, before, after, "eval/accuracy")),
        _sharpening(rl, before, after),
        _length(rl),
        _reflection(reflection),
        _language(rl, *_held_out(rl, before, after, "eval/language")),
    ]


def ends(points: Sequence[Point]) -> tuple[float, float, float]:
    """Means of the first tenth, of the third quarter and of the last tenth of a series."""
    values = [value for _, value in points]
    tenth = max(1, len(values) // 10)
    third_quarter = values[len(values) // 2 : max(len(values) * 3 // 4, len(values) // 2 + 1)]
    return _mean(values[:tenth]), _mean(third_quarter), _mean(values[-tenth:])


def _gain(start: float | None, end: float | None) -> Finding:
    claim = "Accuracy rises by RL alone"
    if start is None or end is None:
        return Finding(claim, "not measured", "It takes held-out accuracy before and after RL.")
    verdict = "reproduced" if end > start + 0.1 else "in part" if end > start else "not reproduced"
    return Finding(
        claim, verdict, f"pass@1 on held-out questions went from {_percent(start)} to {_percent(end)}."
    )


def _sharpening(rl: StageRecord, before: StageRecord | None, after: StageRecord | None) -> Finding:
    claim = "RL adds what the base could not do"
    base, ceiling = _held_out(rl, before, after, "eval/pass_at_k")
    _, end = _held_out(rl, before, after, "eval/accuracy")
    if base is None or end is None:
        return Finding(claim, "not measured", "It takes pass@k before RL and pass@1 after it.")
    grown = "" if ceiling is None else f" pass@k itself went from {_percent(base)} to {_percent(ceiling)}."
    if base >= end / 2:
        text = (
            f"Before RL, {_percent(base)} of the questions were already solved in at least one of k tries; "
            f"a single try now solves {_percent(end)}.{grown} "
            "That is mostly sharpening: RL makes likely what was possible."
        )
        return Finding(claim, "in part" if ceiling is not None and ceiling > base else "not reproduced", text)
    text = f"A single try now solves {_percent(end)}; k tries before RL solved {_percent(base)}.{grown}"
    return Finding(claim, "reproduced", text)


def _length(rl: StageRecord) -> Finding:
    """On held-out questions where they were measured: those of training differ from step to step."""
    claim = "Responses keep growing"
    questions, points = "held-out", rl.series("eval/length")
    if len(points) < 3:
        questions, points = "training", rl.series("rollout/length")
    if len(points) < 4 and questions == "training":
        return Finding(claim, "not measured", "It takes the lengths of some steps.")
    first, third, last = ends(points)
    text = f"From {first:.0f} to {last:.0f} tokens in the mean of {questions} questions"
    if last < first * 1.1:
        return Finding(claim, "not reproduced", f"{text}: no growth to speak of.")
    if last < third * 1.05:
        return Finding(claim, "in part", f"{text}, but hardly any more since the third quarter of the run.")
    return Finding(claim, "reproduced", f"{text}, and still growing.")


def _reflection(points: Sequence[Point]) -> Finding:
    claim = '"Aha": the model learns to re-evaluate'
    if len(points) < 4:
        return Finding(claim, "not measured", "It takes the samples of some RL steps.")
    first, _, last = ends(points)
    words = "Samples with a word of re-evaluation (wait, 等等, mistake ...)"
    text = f"{words}: {_percent(first)} at first, {_percent(last)} at the end."
    if last > first * 1.5 and last > first + 0.02:
        return Finding(claim, "reproduced", f"{text} Read some: the words alone prove no second thought.")
    return Finding(
        claim, "not reproduced", f"{text} Self-correction pays only while there are errors to correct."
    )


def _language(rl: StageRecord, start: float | None, end: float | None) -> Finding:
    rewarded = bool(rl.series("train/reward_language"))
    claim = (
        "With a language reward, the reasoning keeps to the question's language"
        if rewarded
        else "Without a language reward, the reasoning leaves the question's language"
    )
    if start is None or end is None:
        return Finding(claim, "not measured", "It takes eval/language before and after RL.")
    text = (
        f"Words of the reasoning in the question's language: {_percent(start)} before, {_percent(end)} after."
    )
    if (end >= 0.9) if rewarded else (end < start and end < 0.9):
        return Finding(claim, "reproduced", text)
    return Finding(claim, "in part" if rewarded and end > start else "not reproduced", text)


def _held_out(
    rl: StageRecord, before: StageRecord | None, after: StageRecord | None, metric: str
) -> tuple[float | None, float | None]:
    """Before and after RL: of the evaluations around the stage if both measured it, else of its own curve.

    The two are never mixed, as they may ask other questions, another number of times. An end that nothing
    measured is None.
    """
    around = before and before.result(metric), after and after.result(metric)
    curve = rl.series(metric)
    if None in around and len(curve) > 1:
        return curve[0][1], curve[-1][1]
    return around


def _percent(share: float) -> str:
    return number(share, "share")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


FINDINGS = findings
