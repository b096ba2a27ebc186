"""report.html: one file that says what a run did, without a script, a font or an image from elsewhere."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from megatron_r1.errors import DataError
from megatron_r1.files.run_directory import REPORT
from megatron_r1.report import charts
from megatron_r1.report.chain import chain_graph
from megatron_r1.report.checkpoints import (
    ASKED,
    asked_otherwise,
    checkpoint_of,
    comparable,
    preferences,
    table,
)
from megatron_r1.report.findings import Finding, findings, reflection_by_step
from megatron_r1.report.plot import Chart, Series, line_chart, number
from megatron_r1.report.record import StageRecord, read_run
from megatron_r1.tracking.metrics import METRICS
from megatron_r1.tracking.progress import duration
from megatron_r1.tracking.samples import Sample

TILES = {
    "eval/accuracy": "pass@1",
    "eval/cons": "majority of k",
    "eval/format": "format",
    "eval/language": "language",
    "eval/length": "tokens a response",
}
TRAINED = ("pretrain", "sft", "reward_model")
QUESTIONS_A_LANGUAGE = 3
MAX_TEXT = 1500  # characters shown of a response
TAG = re.compile(r"(</?[A-Za-z_|]+>)")


@dataclass(frozen=True, slots=True)
class RLSection:
    """An RL stage: the paper's two charts, the others, and the titles of those without values."""

    stage: StageRecord
    paper: list[Chart]
    charts: list[Chart]
    missing: list[str]
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class Answers:
    """A question's samples in one evaluation; `sample` is the one shown."""

    stage: str
    sample: Sample
    num_right: int
    num_samples: int


@dataclass(frozen=True, slots=True)
class Pair:
    """The same question before and after; `why` it is shown."""

    why: str
    before: Answers
    after: Answers


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write `out`, by default run_dir/report.html; what the run lacks is said to be not measured.

    Returns its path. DataError if the run can't be read or the page can't be written.
    """
    stages = read_run(run_dir)
    evaluations = [stage for stage in stages if stage.kind == "evaluate"]
    alike = comparable(evaluations)
    headline = [one for one in alike if one.model == evaluations[0].model]
    rows = table(alike, headline)
    trained = [stage for stage in stages if stage.kind in TRAINED]
    page = _template().render(
        name=run_dir.resolve().name,
        facts=_facts(stages),
        tiles=_tiles(headline),
        stages=stages,
        seconds=sum(stage.seconds or 0.0 for stage in stages),
        rl=[_rl_section(stage, stages) for stage in stages if stage.kind == "grpo"],
        losses=[chart for stage in trained for chart in _trained_charts(stage)],
        graph=chain_graph(stages, _accuracies(alike)),
        columns=[(checkpoint_of(one), one.model) for one in alike],
        rows=[row for row in rows if row.is_key],
        other_rows=[row for row in rows if not row.is_key],
        ends=[checkpoint_of(stage) for stage in (headline[:1] + headline[-1:])],
        asked_labels=list(ASKED.values()),
        asked=asked_otherwise(evaluations, alike),
        preferences=preferences(stages),
        pairs=_pairs(headline),
        configurations=_configurations(stages),
        cards=[(stage, stage.data_card) for stage in stages if stage.data_card],
    )
    path = out or run_dir / REPORT
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{path}: can't be written ({error.strerror}); name another file: "
            f"megatron-r1 report {run_dir} --out FILE"
        ) from None
    return path


def _configurations(stages: Sequence[StageRecord]) -> list[tuple[str, list[str]]]:
    """Each resolved configuration once, with the stages that ran under it."""
    found: dict[str, list[str]] = {}
    for stage in stages:
        found.setdefault(stage.config_text, []).append(stage.name)
    return list(found.items())


def _accuracies(evaluations: Sequence[StageRecord]) -> dict[str, float]:
    """pass@1 by the checkpoint."""
    found = {checkpoint_of(one): one.result("eval/accuracy") for one in evaluations}
    return {name: value for name, value in found.items() if value is not None}


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("megatron_r1.report", "."),
        autoescape=True,  # responses are text that a model wrote
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, pieces=pieces, parts_line=parts_line)
    return environment.get_template("report.html.jinja")


def _facts(stages: Sequence[StageRecord]) -> list[tuple[str, str]]:
    """Family, layout and so on, from the first stage that says so."""
    config: dict[str, Any] = {}
    for stage in stages:
        config = stage.config | config
    model, layout = config.get("model") or {}, config.get("layout") or {}
    size = {"num_layers": "layers", "hidden_size": "wide", "num_experts": "experts"}
    words = [f"{model[key]} {word}" for key, word in size.items() if model.get(key)]
    shown = {
        "model": ", ".join([str(model["family"]), *words]) if "family" in model else None,
        "layout": _layout(layout) if config else None,
        "precision": config.get("precision"),
        "seed": config.get("seed"),
    }
    return [(name, "not recorded" if value is None else str(value)) for name, value in shown.items()]


def _layout(layout: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in layout.items() if _is_notable(value)) or "one rank"


def _is_notable(value: object) -> bool:
    """A degree above 1; ranks that are not spread over a dimension say nothing."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def _tiles(evaluations: Sequence[StageRecord]) -> list[tuple[str, str, str]]:
    """(label, before, after) of the headline numbers; before is empty with a single evaluation."""
    tiles = []
    for metric, label in TILES.items():
        values = [stage.result(metric) for stage in evaluations]
        texts = [number(value, METRICS[metric].unit) for value in values if value is not None]
        before = texts[0] if len(texts) > 1 else ""
        tiles.append((label, before, texts[-1] if texts else "not measured"))
    return tiles


def _rl_section(stage: StageRecord, stages: Sequence[StageRecord]) -> RLSection:
    measured = [one for one in stages if one.kind == "evaluate" and one.is_headline]
    before = next((one for one in measured if one.inputs[:1] == stage.inputs[:1]), None)
    after = next((one for one in measured if one.inputs[:1] == (stage.name,)), None)
    reflection = reflection_by_step(stage.samples())
    watched = charts.watch_charts(stage) if stage.measured("watch/") else []
    others = [*charts.rl_charts(stage), _reflection_chart(reflection)]
    return RLSection(
        stage=stage,
        paper=[charts.accuracy_chart(stage, before), charts.length_chart(stage), *watched],
        charts=[chart for chart in others if chart.svg],
        missing=[chart.title for chart in others if not chart.svg],
        findings=findings(stage, before, after, reflection),
    )


def _reflection_chart(points: Sequence[tuple[float, float]]) -> Chart:
    caption = "Samples with a word such as wait, 等等 or mistake, counted over all training samples."
    series = [Series("with such a word", points, style="noisy")]
    return line_chart("Words of re-evaluation", series, unit="share", caption=caption, low=0)


def _trained_charts(stage: StageRecord) -> Iterator[Chart]:
    for chart in (charts.loss_chart(stage), charts.expert_chart(stage)):
        if chart.svg:
            yield chart


def _pairs(evaluations: Sequence[StageRecord]) -> list[Pair]:
    """The first questions of each language, and the one that goes worst after: no picking of good ones."""
    if len(evaluations) < 2:
        return []
    before, after = _answers(evaluations[0]), _answers(evaluations[-1])
    shared = sorted(before.keys() & after.keys())  # an id is a hash: its order is as good as drawn by lot
    shared.sort(key=lambda key: after[key].sample.language)
    pairs = [
        Pair("", before[key], after[key])
        for _, keys in groupby(shared, key=lambda key: after[key].sample.language)
        for key in list(keys)[:QUESTIONS_A_LANGUAGE]
    ]
    worst = min(shared, key=lambda key: after[key].num_right / after[key].num_samples, default=None)
    if worst is not None and after[worst].num_right < after[worst].num_samples:
        pairs.append(Pair("the question that goes worst after", before[worst], after[worst]))
    return pairs


def _answers(stage: StageRecord) -> dict[str, Answers]:
    """By question: its first sample, and how many of all are right."""
    samples: dict[str, list[Sample]] = {}
    for sample in stage.samples():
        samples.setdefault(sample.id, []).append(sample)
    return {
        key: Answers(stage.name, drawn[0], sum(one.verdict == "right" for one in drawn), len(drawn))
        for key, drawn in samples.items()
    }


def pieces(text: str) -> list[tuple[str, str]]:
    """(css class, text): tags, what stands inside <think> and <answer>, and the rest."""
    shown = text if len(text) <= MAX_TEXT else text[:MAX_TEXT]
    found, inside = [], ""
    for part in TAG.split(shown):
        if TAG.fullmatch(part):
            name = part.strip("</>").lower()
            inside = "" if part.startswith("</") else name
            found.append(("tag", part))
        elif part:
            found.append((inside if inside in ("think", "answer") else "plain", part))
    if len(text) > MAX_TEXT:
        found.append(("more", f" … {len(text) - MAX_TEXT:,} more characters"))
    return found


def parts_line(parts: Mapping[str, Mapping[str, float | str | None]]) -> str:
    """The rewards of a sample in one line, with the notes."""
    words = []
    for name, part in parts.items():
        value = part["value"]
        text = f"{name} {'ungradable' if value is None else number(float(value))}"
        words.append(f"{text} ({part['note']})" if part["note"] else text)
    return " · ".join(words)
