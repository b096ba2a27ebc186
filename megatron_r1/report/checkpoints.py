"""Checkpoints side by side on the same held-out questions, what was asked otherwise, and reward models.

The shape is that of the paper's table of R1-Zero, Dev1, Dev2, Dev3 and R1 (Nature text, table 3): a row a
metric, a column a checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_r1.report.plot import number
from megatron_r1.report.record import StageRecord
from megatron_r1.tracking.metrics import METRICS, STDERR, describe, rows

ASKED = {"eval/accuracy": "pass@1", "eval/format": "form", "eval/language": "language", "eval/mixed": "mixed"}
KEY = (*ASKED, "eval/cons", "eval/greedy", "eval/length")
OF_RULES = "eval/accuracy_on_"
OF_OTHERS = ("eval/reward_", "eval/score_")  # shown at once for domains that no rule grades
PREFERENCE = "eval/preference_"


@dataclass(frozen=True, slots=True)
class Row:
    """One metric over the checkpoints: a cell each, then the change from the first to the last."""

    metric: str
    meaning: str
    cells: list[str]
    change: str
    better: str  # better | worse | "" where neither is, or where it is within two standard errors
    is_key: bool  # shown at once


@dataclass(frozen=True, slots=True)
class Asked:
    """A checkpoint on other questions, or asked in another way."""

    checkpoint: str
    how: str
    cells: list[str]


@dataclass(frozen=True, slots=True)
class Preferences:
    """A reward model on held-out preferences."""

    stage: StageRecord
    cells: dict[str, str]


def comparable(evaluations: Sequence[StageRecord]) -> list[StageRecord]:
    """Those that ask the first one's questions, one at a time and without examples."""
    return [one for one in evaluations if one.is_headline and _data(one) == _data(evaluations[0])]


def checkpoint_of(evaluation: StageRecord) -> str:
    """Whose weights it measured; its own name where that was not recorded."""
    return evaluation.inputs[0] if evaluation.inputs else evaluation.name


def table(evaluations: Sequence[StageRecord], headline: Sequence[StageRecord]) -> list[Row]:
    """Every eval/ metric that an evaluation measured, in the table's order.

    headline: those of the run's own model; the change is that from their first to their last.
    """
    found = {
        name: None
        for stage in evaluations
        for name in [*stage.results, *stage.measured("eval/")]
        if name.startswith("eval/") and not name.endswith("_stderr")
    }
    order = {id(metric): i for i, metric in enumerate(rows().values())}
    unknown = METRICS[STDERR]  # of a name that a later version dropped: last
    return [
        _row(name, evaluations, headline)
        for name in sorted(found, key=lambda n: (order[id(describe(n) or unknown)], n))
    ]


def _row(name: str, evaluations: Sequence[StageRecord], headline: Sequence[StageRecord]) -> Row:
    metric = describe(name)
    unit = metric.unit if metric else ""
    cells = [_cell(stage, name, unit) for stage in evaluations]
    values = [stage.result(name) for stage in headline]
    errors = [stage.result(f"{name}_stderr") for stage in headline]
    first, last = values[0], values[-1]
    change, better = "", ""
    if len(values) > 1 and first is not None and last is not None:
        error = ((errors[0] or 0.0) ** 2 + (errors[-1] or 0.0) ** 2) ** 0.5
        change = f"{'+' if last >= first else '−'}{number(abs(last - first), unit).replace('%', 'points')}"
        if metric and metric.direction and abs(last - first) > 2 * error:
            better = "better" if (last > first) == (metric.direction == "up") else "worse"
    return Row(name, metric.meaning if metric else "", cells, change, better, _is_key(name, headline))


def _is_key(name: str, evaluations: Sequence[StageRecord]) -> bool:
    if name in KEY or name.startswith(OF_RULES):
        return True
    _, is_of_domain, domain = name.partition("_on_")
    graded = any(stage.result(f"{OF_RULES}{domain}") is not None for stage in evaluations)
    return name.startswith(OF_OTHERS) and bool(is_of_domain) and not graded


def asked_otherwise(evaluations: Sequence[StageRecord], alike: Sequence[StageRecord]) -> list[Asked]:
    """The other evaluations: more turns, solved examples, other questions."""
    others = [one for one in evaluations if one not in alike]
    return [
        Asked(checkpoint_of(one), _how(one), [_cell(one, name, METRICS[name].unit) for name in ASKED])
        for one in others
    ]


def _how(evaluation: StageRecord) -> str:
    section = evaluation.section.get("evaluation") or {}
    words = [", ".join(section.get("data") or {}) or "not recorded"]
    few_shot, turns = section.get("few_shot"), section.get("turns", 1)
    if few_shot:
        words.append(f"after {few_shot.get('shots')} solved")
    if turns > 1:
        words.append(f"as question {turns} of a conversation")
    return ", ".join(words)


def preferences(stages: Sequence[StageRecord]) -> list[Preferences]:
    """What reward models reach on preferences that they were not trained on."""
    found = []
    for stage in stages:
        names = [name for name in METRICS if name.startswith(PREFERENCE)]
        if stage.kind == "reward_model" and any(stage.result(name) is not None for name in names):
            cells = {name.removeprefix(PREFERENCE).replace("_", " "): _cell(stage, name, METRICS[name].unit)
                     for name in names}  # fmt: skip
            found.append(Preferences(stage, cells))
    return found


def _cell(stage: StageRecord, name: str, unit: str) -> str:
    value, error = stage.result(name), stage.result(f"{name}_stderr")
    if value is None:
        return "not measured"
    return number(value, unit) + ("" if error is None else f" ± {number(error, unit)}")


def _data(evaluation: StageRecord) -> Mapping[str, Any]:
    return (evaluation.section.get("evaluation") or {}).get("data") or {}
