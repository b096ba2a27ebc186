"""What can be known of a run without running it: every mistake at once, or a report to read before the start.

Beyond what the loader checks: the layout against the model, each stage's own rules, names that must exist,
files that must be there (every value under a key called `path`, and every value that begins with hf:), and
the first lines of the data (data.py). For a run that is meant for another machine, the files can be
left out.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

import torch
from pydantic import BaseModel

from megatron_r1 import registry
from megatron_r1.backend.model.precision import pack_multiple
from megatron_r1.backend.rollout import fp8 as rollout_precision
from megatron_r1.config import Loaded, refuse
from megatron_r1.config import layout as layouts
from megatron_r1.config import rollout as rollouts
from megatron_r1.config.explain import near
from megatron_r1.config.tree import Finding, KeyPath
from megatron_r1.data.chat_template import templates
from megatron_r1.errors import CheckpointError, ConfigError
from megatron_r1.huggingface.source import Source
from megatron_r1.models.shape import FamilyConfig, ModelShape
from megatron_r1.plan.plan import Plan, make_plan
from megatron_r1.run.config import HF, RunConfig, bad_references, read_run
from megatron_r1.runtime.cores import crowding_warning, usable_cores
from megatron_r1.stages.base import StageConfig
from megatron_r1.stages.training import TrainingStage

Rows = list[tuple[str, str]]
Planner = Callable[[], Plan | None]


def check(config_path: Path, *, overrides: Sequence[str] = (), files: bool = True, data: bool = False) -> str:
    """The report of a run that can start. ConfigError lists every finding, one a line.

    files: whether the files that the run names must be here and fit. data: read all lines of JSONL files, not
    the first of each.
    """
    loaded = read_run(config_path, overrides=overrides)
    planned = planner(loaded.value)
    refuse(findings(loaded, files=files, data=data, planned=planned))
    return report(loaded.value, planned)


def planner(run: RunConfig) -> Planner:
    """Makes the run's plan when it is first asked for, once; None where no hardware is named."""
    return cache(lambda: None if run.plan.hardware is None else make_plan(run, run.plan.hardware))


def findings(
    loaded: Loaded[RunConfig], *, files: bool = True, data: bool = False, planned: Planner | None = None
) -> Iterator[Finding]:
    """Everything that would stop the run; files, data: as in `check`."""
    run = loaded.value
    bad = list(bad_references(loaded))
    yield from bad
    unknown = list(_unknown_names(loaded))
    yield from unknown
    missing = list(_missing_files(loaded)) if files else []
    yield from missing
    if files and not missing and not bad:
        yield from _unfit_weights(loaded)
        if not unknown:
            # it imports kinds of stages, which settles what can be configured: plug-ins come first
            from megatron_r1.check.data import data_findings

            yield from data_findings(loaded, whole=data)
    for owner, model in _models(run):
        impossible = [f"model.{text}" for text in model.problems()]
        yield from (_finding(loaded, owner, text) for text in impossible)
        if impossible:
            continue
        for text in [*layouts.problems(run.layout, model.shape()), *_rollout_problems(run, model)]:
            yield _finding(loaded, owner, text)
        if model.megatron:
            for text in _refused_by_megatron(run, model):
                yield _finding(loaded, owner, text)
    for text in [*_engine_problems(run), *(_missing_here(run) if files else [])]:
        yield _finding(loaded, (), text)
    for text in run.slurm.problems(ranks=run.layout.ranks, stages=list(run.stages)):
        yield _finding(loaded, ("slurm",), text)
    for text in layouts.precision_problems(run.layout, precision=run.precision, recompute=run.recompute):
        yield _finding(loaded, (), text)
    if not bad:
        yield from _misfits(loaded, planned or planner(run))
    if run.layout.data and not bad:
        for name, stage in run.stages.items():
            own = run.for_stage(name)
            for text in [*stage.problems(own), *_uneven_packs(own, stage)]:
                yield _finding(loaded, ("stages", name), text)


def _rollout_problems(run: RunConfig, model: FamilyConfig) -> Iterator[str]:
    """Of the layout and the engine by which the model is sampled from."""
    if run.rollout.layout is not None:
        yield from layouts.problems(run.sampling_layout, model.shape(), key="rollout.layout")
    yield from rollouts.conflicts(run.rollout.engine, rollouts.model_features(model))
    if run.rollout.precision is not None:
        yield from rollout_precision.problems(model, run.sampling_layout)


def _engine_problems(run: RunConfig) -> Iterator[str]:
    """Of what the run asks of its rollouts, whatever the model."""
    own, rollout = run.rollout.layout, run.rollout
    if own is not None and "ranks" in own.model_fields_set and own.ranks != run.layout.ranks:
        yield (
            f"rollout.layout.ranks: {own.ranks}, and layout.ranks={run.layout.ranks}; training and "
            "rollout take turns on the same ranks, so leave it out"
        )
    key = "layout" if own is None else "rollout.layout"
    asked = rollout.features() | rollouts.layout_features(run.sampling_layout, key=key)
    yield from rollouts.conflicts(rollout.engine, asked)
    if rollout.speculation and not any(model.shape().num_mtp_layers for _, model in _models(run)):
        yield (
            f"rollout.speculation: {rollout.speculation}: no model has an MTP layer to draft with; "
            "set model.mtp_layers: 1 or leave it out"
        )


def _missing_here(run: RunConfig) -> Iterator[str]:
    """What the run asks for and this machine can't."""
    yield from rollouts.missing(run.rollout.engine)
    if run.rollout.precision is not None:
        yield from rollout_precision.missing()


def _models(run: RunConfig) -> Iterator[tuple[KeyPath, FamilyConfig]]:
    """Every model of the run, with the keys of what owns it."""
    yield (), run.model
    for name, named in run.models.items():
        yield ("models", name), named.model


def report(run: RunConfig, planned: Planner) -> str:
    """Layout, chain, batches and warnings of a run without findings."""
    parts = [f"{run.name}: no problems found", _table("layout", _layout_rows(run))]
    parts.append(_table("stages", [(name, _origin(run, name)) for name in run.stages]))
    parts += [
        _table(f"batch of {name}", rows)
        for name, stage in run.stages.items()
        if (rows := stage.batch_table(run.for_stage(name)))
    ]
    plan = planned()
    if plan is not None:
        parts.append(_table(f"plan for {plan.hardware_name} (megatron-r1 plan says more)", plan.summary()))
    found = warnings(run, planned)
    if found:
        parts.append("\n".join(["warnings", *(f"  {text}" for text in found)]))
    return "\n\n".join(parts)


def warnings(run: RunConfig, planned: Planner | None = None) -> list[str]:
    """What will run but may not be meant."""
    found = layouts.warnings(run.layout)
    if not torch.cuda.is_available():
        crowding = crowding_warning(run.layout.ranks, cores=usable_cores())
        found += [f"layout: {crowding}"] if crowding else []
        if run.precision not in ("fp32", "bf16"):
            found.append(
                f"precision: {run.precision} needs GPUs of the Hopper generation or newer, none here"
            )
    found += [f"slurm.{text}" for text in run.slurm.warnings(list(run.stages))]
    for name, stage in run.stages.items():
        found += [f"stages.{name}: {text}" for text in stage.warnings(run.for_stage(name))]
        if isinstance(stage, TrainingStage):
            found += [f"stages.{name}.{text}" for text in stage.optim.warnings(stage.steps)]
    plan = None if run.plan.refuse else (planned or planner(run))()
    return found + ([] if plan is None else plan.misfits())


def _misfits(loaded: Loaded[RunConfig], planned: Planner) -> Iterator[Finding]:
    """What does not fit into the memory of the GPUs that the run names, if it is to be refused."""
    run = loaded.value
    chosen = (run.layout, run.sampling_layout)
    if not run.plan.refuse or any(layouts.problems(c, m.shape()) for c in chosen for _, m in _models(run)):
        return
    plan = planned()
    for text in [] if plan is None else plan.misfits():
        yield _finding(loaded, (), f"{text}; or plan.refuse=false to start all the same")


def _finding(loaded: Loaded[RunConfig], owner: KeyPath, text: str) -> Finding:
    """A section's "key: message", where the key is below `owner`; without a key, of the owner itself."""
    head, colon, message = text.partition(": ")
    keys = tuple(head.split("."))
    if colon and all(key.isidentifier() for key in keys):
        return loaded.finding((*owner, *keys), message)
    return loaded.finding(owner, text)


def _uneven_packs(run: RunConfig, stage: StageConfig) -> Iterator[str]:
    """A pack that the ranks and the number format can't divide."""
    if not isinstance(stage, TrainingStage):
        return
    multiple, tokens = pack_multiple(run.layout, run.precision), stage.tokens_per_pack
    if tokens % multiple:
        yield (
            f"tokens_per_pack: {tokens} is no multiple of {multiple}, as this layout and precision need; "
            f"set it to {-(-tokens // multiple) * multiple}"
        )


def _refused_by_megatron(run: RunConfig, model: FamilyConfig) -> Iterator[str]:
    """What Megatron says to the fields that are handed to it as they are."""
    from megatron_r1.backend.model.build import default_options, transformer_config  # takes seconds

    try:
        for layout in (run.layout, run.sampling_layout):
            transformer_config(model, layout, default_options("fp32"))
    except ConfigError as error:
        yield str(error)
    except (AssertionError, TypeError, ValueError) as error:
        yield f"model.megatron: Megatron refuses the model with {model.megatron}: {error}"


def _unknown_names(loaded: Loaded[RunConfig]) -> Iterator[Finding]:
    run = loaded.value
    named = [(("models", name), model) for name, model in run.models.items()]
    for owner, holder in [((), run), *named]:
        if holder.template is not None and holder.template not in templates():
            path = (*owner, "template")
            yield loaded.finding(path, _unknown("template", holder.template, list(templates())))
        train = holder.tokenizer.train if holder.tokenizer is not None else None
        for source in [] if train is None else train.sources():
            if source not in registry.sources():
                path = (*owner, "tokenizer", "train", "source")
                yield loaded.finding(path, _unknown("data source", source, list(registry.sources())))


def _unknown(what: str, name: str, names: list[str]) -> str:
    meant = near(name, names)
    return f"no {what} {name!r}; {f'did you mean {meant}?; ' if meant else ''}one of {', '.join(names)}"


def _missing_files(loaded: Loaded[RunConfig]) -> Iterator[Finding]:
    for path, text in _texts(loaded.value, ()):
        if text.startswith(HF):
            directory = Path(text.removeprefix(HF))
            if text != HF and not (directory / "config.json").is_file():
                what = "no config.json in" if directory.is_dir() else "no such directory:"
                yield loaded.finding(path, f"{what} {directory} (from {os.getcwd()})")
        elif path[-1] == "path" and not Path(text).exists():
            yield loaded.finding(path, f"no such file: {text} (from {os.getcwd()})")


def _unfit_weights(loaded: Loaded[RunConfig]) -> Iterator[Finding]:
    """Hugging Face's weights that aren't the run's model; only headers are read."""
    for name, stage in loaded.value.stages.items():
        if stage.init is None or not stage.init.startswith(HF):
            continue
        try:
            Source(Path(stage.init.removeprefix(HF))).plan(loaded.value.for_stage(name).model)
        except (ConfigError, CheckpointError) as error:
            yield loaded.finding(("stages", name, "init"), str(error))


def _texts(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Every text in a configuration, with its keys."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, BaseModel):
        for key, inner in value:
            yield from _texts(inner, (*path, key))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))


def _origin(run: RunConfig, name: str) -> str:
    stage, model = run.stages[name], run.model_name(name)
    data = [source for source in stage.inputs() if source != stage.init]
    text = f"{stage.kind}, from {stage.init or 'random weights'}"
    text += f", on the data of {' and '.join(data)}" if data else ""
    return f"{text}, model {model}" if model else text


def _layout_rows(run: RunConfig) -> Rows:
    layout, shape = run.layout, run.model.shape()
    rows = [
        ("ranks", _degrees(layout)),
        ("layers a rank", _layers(layouts.split_layers(layout, shape), pipeline=layout.pipeline)),
    ]
    if shape.num_experts:
        rows.append(("experts a rank", _experts(layout, shape)))
    if not run.sampling_layout.places_like(layout):
        rows.append(("rollout", _degrees(run.sampling_layout)))
    sampled = "" if run.rollout.precision is None else f", rollouts {run.rollout.precision}"
    rows.append(("precision", f"{run.precision}{sampled}"))
    return rows


def _degrees(layout: layouts.Layout) -> str:
    degrees = {name: getattr(layout, name) for name in ("tensor", "pipeline", "context")}
    factors = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1]
    return " x ".join([*factors, f"{layout.data} replicas"]) + f" = {layout.ranks}"


def _experts(layout: layouts.Layout, shape: ModelShape) -> str:
    text = f"{shape.num_experts} experts / expert {layout.expert} = {shape.num_experts // layout.expert}"
    if layout.expert_tensor > 1:
        text += f", each cut in {layout.expert_tensor}"
    return f"{text}; {layout.expert_data} replicas of each"


def _layers(chunks: list[str], *, pipeline: int) -> str:
    """Layers by pipeline rank: "0: 3, 1-14: 4, 15: 2 and 1 MTP"."""
    rows = ["".join(chunks[rank::pipeline]) for rank in range(pipeline)]
    amounts = [_amount(row) for row in rows]
    if pipeline == 1:
        return amounts[0]
    spans = []
    for amount, group in groupby(range(pipeline), key=lambda rank: amounts[rank]):
        ranks = list(group)
        span = f"{ranks[0]}-{ranks[-1]}" if len(ranks) > 1 else f"{ranks[0]}"
        spans.append(f"{amount} on pipeline rank {span}")
    return ", ".join(spans)


def _amount(letters: str) -> str:
    mtp = letters.count("m")
    return f"{letters.count('t')}{f' and {mtp} MTP' if mtp else ''}"


def _table(title: str, rows: Rows) -> str:
    width = max(len(what) for what, _ in rows)
    return "\n".join([title, *(f"  {what:<{width}}  {text}" for what, text in rows)])
