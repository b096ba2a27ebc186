"""What a run directory holds, read for the report: stages in their order, finished or not."""

import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_r1.errors import DataError
from megatron_r1.files import run_directory
from megatron_r1.files.json_reader import read_json_object
from megatron_r1.tracking.jsonl import read_metrics
from megatron_r1.tracking.samples import Sample, read_samples

WRITTEN = (run_directory.RESOLVED, run_directory.METRICS)  # a stage that has begun has one of them


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage's directory. `config` is the resolved configuration, {} if it was not written yet."""

    directory: Path
    kind: str
    config: dict[str, Any]
    config_text: str
    config_hash: str
    inputs: tuple[str, ...]
    finished: bool
    results: dict[str, float]  # artifact.json's metrics
    metrics: list[dict[str, float]]

    @property
    def name(self) -> str:
        return self.directory.name

    def series(self, metric: str) -> list[tuple[float, float]]:
        """(step, value) wherever the stage measured it."""
        return [(line["step"], line[metric]) for line in self.metrics if metric in line]

    def measured(self, prefix: str) -> list[str]:
        """Names of the metrics that begin with `prefix`, in the order of their first line."""
        names = {name: None for line in self.metrics for name in line if name.startswith(prefix)}
        return list(names)

    def result(self, metric: str) -> float | None:
        """The stage's final value: the artifact's, or else the last one measured."""
        if metric in self.results:
            return self.results[metric]
        values = self.series(metric)
        return values[-1][1] if values else None

    @property
    def seconds(self) -> float | None:
        """Wall clock of the stage; without it, the sum of its steps."""
        whole = self.results.get("time/stage_s")
        steps = self.series("time/step_s")
        return whole if whole is not None else (sum(s for _, s in steps) if steps else None)

    @property
    def num_steps(self) -> int:
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    def samples(self) -> Iterator[Sample]:
        return read_samples(self.directory / run_directory.SAMPLES)

    @property
    def section(self) -> Mapping[str, Any]:
        return stage_section(self.config, self.name)

    @property
    def model(self) -> str | None:
        """Name of its model among the run's `models`; None: the run's own."""
        return _model_name(self.config, self.name)

    @property
    def is_headline(self) -> bool:
        """Whether an evaluation asks one question at a time without examples, as the paper does."""
        how = self.section.get("evaluation") or {}
        return not how.get("few_shot") and how.get("turns", 1) == 1

    @property
    def data_card(self) -> dict[str, Any] | None:
        """What a stage says of the data that it made."""
        path = self.directory / run_directory.DATA_CARD
        if not path.exists():
            return None
        return read_json_object(path, error=DataError, remedy="remove it and run the stage again")


def read_run(run_dir: Path) -> list[StageRecord]:
    """The stages of a run, a stage after those that it starts from, else as configured or begun."""
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such run directory; give the folder that holds the stages' folders")
    stages = [read_stage(path) for path in sorted(run_dir.iterdir(), key=_begun) if _is_stage(path)]
    if not stages:
        raise DataError(f"{run_dir}: no stage here; a stage's folder holds {' or '.join(WRITTEN)}")
    listed = list(next((stage.config["stages"] for stage in stages if "stages" in stage.config), ()))
    stages.sort(key=lambda stage: listed.index(stage.name) if stage.name in listed else len(listed))
    by_name = {stage.name: stage for stage in stages}
    order = graphlib.TopologicalSorter(
        {stage.name: [name for name in stage.inputs if name in by_name] for stage in stages}
    )
    return [by_name[name] for name in _stable(order, list(by_name))]


def read_stage(directory: Path) -> StageRecord:
    artifact, config = run_directory.read_artifact(directory), run_directory.read_resolved(directory)
    resolved = directory / run_directory.RESOLVED
    section = stage_section(config, directory.name)
    inputs = [] if artifact is None else _stages_and_weights(artifact)
    if not inputs and section.get("init"):
        inputs = [section["init"]]
    return StageRecord(
        directory=directory,
        kind=artifact.kind if artifact is not None else section.get("kind") or "unknown",
        config=config,
        config_text=resolved.read_text(encoding="utf-8") if resolved.exists() else "",
        config_hash="" if artifact is None else artifact.config_hash,
        inputs=tuple(inputs),
        finished=artifact is not None,
        results={} if artifact is None else artifact.metrics,
        metrics=list(read_metrics(directory / run_directory.METRICS)),
    )


def _stages_and_weights(artifact: run_directory.Artifact) -> list[str]:
    """The stages and Hugging Face's folders among the inputs; the others are files."""
    found = artifact.inputs.items()
    return [name for name, value in found if isinstance(value, str) or name.startswith("hf:")]


def stage_section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The stage's own part of its resolved configuration."""
    return config.get("stages", {}).get(name) or config.get("stage") or config


def _model_name(config: Mapping[str, Any], name: str) -> str | None:
    section = config.get("stages", {}).get(name, {})
    init = section.get("init")
    if section.get("model") is None and init in config.get("stages", {}):
        return _model_name(config, init)
    return section.get("model")


def _is_stage(path: Path) -> bool:
    return any((path / name).exists() for name in WRITTEN)


def _begun(path: Path) -> tuple[float, str]:
    started = path / run_directory.RESOLVED
    return (started.stat().st_mtime if started.exists() else path.stat().st_mtime, path.name)


def _stable(order: graphlib.TopologicalSorter[str], names: list[str]) -> Iterator[str]:
    """Topological order that otherwise keeps the order of `names`."""
    order.prepare()
    ready: set[str] = set()
    while order.is_active():
        ready.update(order.get_ready())
        name = min(ready, key=names.index)
        ready.remove(name)
        order.done(name)
        yield name
