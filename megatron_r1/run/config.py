"""The whole configuration of a run: a model, a layout and a chain of named stages.

The kinds of stage and the model families come from the registry, so the exact class is made when it is first
asked for; `RunConfig` is what the code is written against.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, create_model, model_validator

from megatron_r1 import config, registry
from megatron_r1.config.explain import near, position_of
from megatron_r1.config.layout import Layout
from megatron_r1.config.line import Line
from megatron_r1.config.merge import beside
from megatron_r1.config.plan import PlanConfig
from megatron_r1.config.rollout import Rollout, StageRollout
from megatron_r1.config.slurm import Slurm
from megatron_r1.config.spelling import LONGEST_S
from megatron_r1.config.tree import Finding, Position, Tree
from megatron_r1.data.sources.stage import stage_outputs
from megatron_r1.data.tokenizers.tokenizer import TokenizerConfig
from megatron_r1.errors import ConfigError
from megatron_r1.files.run_directory import RESERVED
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.section import NO_EFFECT, Section, deciding
from megatron_r1.stages.base import StageConfig
from megatron_r1.tracking.metrics import rows
from megatron_r1.tracking.tracker import TrackerConfig

HF = "hf:"  # marks the path of a Hugging Face checkpoint
DEFAULT_TRACKERS: dict[str, dict[str, Any]] = {"tensorboard": {}}
MAX_NAME = 80  # a job and a directory are called after it, with a suffix


def _plain(name: str) -> str:
    """Names become directories, and the parts of a.b=c."""
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(f"a name is letters, digits, _ and -, got {name!a}")
    if len(name) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} characters, this one has {len(name)}")
    return name


def _not_the_runs(name: str) -> str:
    """A stage has a directory beside those of the run itself, and `--from` removes it."""
    if name.lower() in RESERVED:
        raise ValueError(f"{name} is the name of a directory that every run has; give the stage another")
    return name


Name = Annotated[str, AfterValidator(_plain)]
StageName = Annotated[Name, AfterValidator(_not_the_runs)]


class NamedModel(Section):
    """Another model of the run, such as a student to distil into."""

    model: FamilyConfig
    """The model, by family."""

    tokenizer: TokenizerConfig | None = None
    """Its tokenizer; null: the run's."""

    template: str | None = None
    """Its chat template; null: the run's."""


class RunConfig(Section):
    """One run: stages in the order of the chain, all with the same model, layout and tokenizer."""

    name: Annotated[Name, NO_EFFECT]
    """Name of the run and of its directory."""

    run_dir: Annotated[Line, NO_EFFECT] = "runs"
    """Where run directories are made."""

    plugins: Annotated[list[str], NO_EFFECT] = Field(default_factory=list)
    """Python files of your own with a REWARD, LOSS, SOURCE, FAMILY, STAGE, TRACKER, TEMPLATE, METRICS or
    FINDINGS: paths from the folder of the file that names them, else from where the command runs.
    `check`, `plan` and all ranks run them: name only files that you trust. The text of those that a stage
    uses decides its result."""

    seed: int = Field(default=0, ge=0)
    """Decides weights, data order and samples; the same in every layout."""

    tokenizer: TokenizerConfig
    """How text becomes tokens."""

    template: str
    """Name of the chat template."""

    model: FamilyConfig
    """The model, by family."""

    models: dict[Name, NamedModel] = Field(default_factory=dict)
    """Other models by name, for the stages that say `model: NAME` and those that start from them."""

    layout: Annotated[Layout, NO_EFFECT] = Layout()
    """How the ranks share the work."""

    rollout: Rollout = Rollout()
    """How the run samples."""

    precision: Literal["fp32", "bf16", "fp8_delayed", "fp8_current", "fp8_blockwise", "mxfp8"] = "fp32"
    """Of the matrix products; weights, gradients and sums are kept in fp32."""

    recompute: Annotated[Literal["none", "selective", "full"], NO_EFFECT] = "none"
    """Activations that the backward pass computes again instead of keeping them: none, attention's inner part
    (selective), or whole layers (full). The result is the same to the bit."""

    max_logits: Annotated[int | None, NO_EFFECT] = Field(default=1 << 26, ge=1)
    """The most logits of a rank at once: of longer packs the output layer takes a chunk of tokens after the
    other, and the backward pass computes each anew, so that memory does not grow with tokens times words.
    null: those of a whole pack, kept. The result is the same, but for the order of sums in the gradient."""

    prompt_logits: Annotated[bool, NO_EFFECT] = False
    """Compute the logits of tokens that no loss counts, too: those of prompts. Nothing reads them; the result
    is the same without, and an update with prompts as long as its outputs saves half of the output layer."""

    offload: Annotated[tuple[Literal["optimizer", "reference", "reward_models"], ...], NO_EFFECT] = ()
    """What is in the host's pinned memory outside its phase, on a GPU; on a CPU nothing moves. optimizer:
    masters and moments, from each rollout to the next update, which brings them back beside its forward and
    backward passes; the gradients' memory is free for that time too. reference: its weights, outside its
    pass. reward_models: theirs, those of judges and of a teacher, while they neither score nor sample. `plan`
    counts all. The result is the same to the bit."""

    timeout_s: Annotated[float, NO_EFFECT] = Field(default=1800.0, gt=0, le=LONGEST_S)
    """How long a rank waits for the others before it takes them for dead."""

    watchdog_s: Annotated[float | None, NO_EFFECT] = Field(default=None, gt=0, le=LONGEST_S)
    """How long a rank may take over one step, evaluations included, before it says where it hangs and ends
    the run (exit code 9). Set it well above the longest step, and below timeout_s; null: for ever."""

    trackers: Annotated[Section, NO_EFFECT] = Section()
    """What gets the metrics and samples of every step, besides metrics.jsonl and samples.jsonl, which are
    always written; where the key is left out, TensorBoard alone. One that fails is left out with a warning
    and stops no run. {}: none."""

    plan: Annotated[PlanConfig, NO_EFFECT] = PlanConfig()
    """What the run is planned for before it starts."""

    slurm: Annotated[Slurm, NO_EFFECT] = Slurm()
    """How the run is submitted to a SLURM cluster."""

    stages: Annotated[dict[StageName, StageConfig], Field(min_length=1)]
    """The chain: stages by name, run from the first to the last."""

    @model_validator(mode="after")
    def _stages_take_the_runs_rollout(self) -> Self:
        """Where a stage's `rollout` leaves a value to the run."""
        own = {
            name: stage.model_copy(update={"rollout": self.rollout.for_stage(rollout)})
            for name, stage in self.stages.items()
            if isinstance(rollout := dict(stage).get("rollout"), StageRollout)
        }
        return self.model_copy(update={"stages": {**self.stages, **own}})

    @property
    def sampling_layout(self) -> Layout:
        """The layout of whatever samples."""
        own = self.rollout.layout
        return self.layout if own is None else own.model_copy(update={"ranks": self.layout.ranks})

    def chosen_trackers(self) -> dict[str, TrackerConfig]:
        """The trackers that are set, by name."""
        return {name: config for name, config in self.trackers if config is not None}

    def model_name(self, stage: str) -> str | None:
        """Which of `models` a stage has: its own, or that of the stage it starts from; None: `model`."""
        config = self.stages[stage]
        if config.model is None and config.init in self.stages:
            return self.model_name(config.init)
        return config.model

    def for_stage(self, stage: str) -> "RunConfig":
        """The run with the stage's own model, tokenizer and template."""
        name = self.model_name(stage)
        if name is None:
            return self
        own = self.models[name]
        return self.model_copy(
            update={
                "model": own.model,
                "tokenizer": own.tokenizer or self.tokenizer,
                "template": own.template or self.template,
            }
        )

    def decisive(self, stage: str) -> dict[str, Any]:
        """All that decides a stage's result but its inputs: its section, its model, plug-ins and more."""
        own, section = self.for_stage(stage), self.stages[stage]
        template = registry.templates().get(own.template)
        plugins = registry.plugged_in(section, own.model, modules=[] if template is None else [template])
        found = {
            key: value
            for key, value in deciding(own).items()
            if key not in ("models", "stages")  # of these its own alone
            and (key, value) != ("rollout", {"precision": None})  # older versions had none
        }
        return {"stage": deciding(section), **found, **({"plugins": plugins} if plugins else {})}


@cache
def run_config_class() -> type[RunConfig]:
    """RunConfig with the model families and stage kinds that are there."""

    def narrowed(name: str, annotation: Any) -> tuple[Any, Any]:
        return annotation, Field(description=_description(name))

    stages: Any = dict[StageName, registry.union(registry.stages(), "kind")]
    family: Any = registry.union(registry.families(), "family")
    trackers: Any = registry.by_name(registry.trackers(), "Trackers")
    narrowed_trackers: Any = Annotated[trackers, NO_EFFECT]
    description = NamedModel.model_fields["model"].description
    named: Any = create_model(
        "NamedModel",
        __base__=NamedModel,
        __doc__=NamedModel.__doc__,
        model=(family, Field(description=description)),
    )
    named_models: Any = dict[Name, named]
    return create_model(
        "RunConfig",
        __base__=RunConfig,
        __doc__=RunConfig.__doc__,
        model=narrowed("model", family),
        models=(named_models, Field(default_factory=dict, description=_description("models"))),
        trackers=(
            narrowed_trackers,
            Field(default=trackers.model_validate(DEFAULT_TRACKERS), description=_description("trackers")),
        ),
        stages=narrowed("stages", Annotated[stages, Field(min_length=1)]),
    )


def _description(name: str) -> str | None:
    return RunConfig.model_fields[name].description


def load_run(
    path: Path, *, overrides: Sequence[str] = (), site: Path | None = None
) -> config.Loaded[RunConfig]:
    """Read and validate a run, over a site's profile. ConfigError lists every finding, one a line."""
    loaded = read_run(path, overrides=overrides, site=site)
    config.refuse(bad_references(loaded))
    return loaded


def read_run(
    path: Path, *, overrides: Sequence[str] = (), site: Path | None = None
) -> config.Loaded[RunConfig]:
    """load_run without a look at how the stages refer to one another."""
    tree = config.read(path, overrides=overrides, below=site)
    config.refuse(_plug_in(tree))
    return config.validated(tree, run_config_class())


def _plug_in(tree: Tree) -> Iterator[Finding]:
    """What is wrong with the plug-ins; what they define is there before the schema is made.

    The tree has the path of each as it was found.
    """
    plugins = tree.value.get("plugins")
    for number, name in enumerate(plugins if isinstance(plugins, list) else []):
        if not isinstance(name, str):
            continue  # the schema says so
        where = ("plugins", number)
        position = position_of(tree, where)
        try:
            path = _found(name, position)
            registry.plug_in(path)
        except ConfigError as error:
            yield Finding(position, where, str(error))
        else:
            plugins[number] = str(path)
    try:
        rows()  # those of plug-ins too
    except ConfigError as error:
        yield Finding(position_of(tree, ("plugins",)), ("plugins",), str(error))


def _found(name: str, position: Position) -> Path:
    """The file of that name beside the file that names it, else from where the command runs."""
    paths = [Path(name)] if position.line == 0 else [beside(Path(position.source), name), Path(name)]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        looked = " and ".join(dict.fromkeys(str(path) for path in paths))
        raise ConfigError(f"no such file: {name} (looked for {looked}, from {Path.cwd()})")
    return found


def json_schema() -> dict[str, Any]:
    return config.json_schema(run_config_class())


def bad_references(loaded: config.Loaded[Any]) -> Iterator[Finding]:
    """Stages that need weights, data or a model that are not there by then."""
    found = [*_bad_inits(loaded), *_bad_sources(loaded)]
    yield from found
    if not found:  # models are found through inits
        yield from _bad_models(loaded)


def _bad_inits(loaded: config.Loaded[Any]) -> Iterator[Finding]:
    names = list(loaded.value.stages)
    for number, (name, stage) in enumerate(loaded.value.stages.items()):
        init, earlier = stage.init, names[:number]
        if init is None or init in earlier or (init.startswith(HF) and init != HF):
            continue
        message = _not_earlier(init, earlier, later=names[number:])
        hint = "" if init in names else _other_origins(init)
        yield loaded.finding(("stages", name, "init"), message + hint)


def _other_origins(init: str) -> str:
    """What `init` may be besides a stage; the line to write, where it looks like a model's name or a path."""
    if "/" not in init:
        return " (or hf:PATH, or null for random weights)"
    folder = init if init.startswith((".", "/", "~")) else f"models/{init.rsplit('/', 1)[-1]}"
    fetched = "" if folder == init else f" after `hf download {init} --local-dir {folder}`"
    return f"; for weights in Hugging Face's files write init: hf:{folder}{fetched}"


def _bad_sources(loaded: config.Loaded[Any]) -> Iterator[Finding]:
    stages = loaded.value.stages
    names = list(stages)
    for number, (name, stage) in enumerate(stages.items()):
        for source in stage_outputs(stage):
            if source.stage not in names[:number]:
                message = _not_earlier(source.stage, names[:number], later=names[number:])
                yield loaded.finding(("stages", name), f"a source of its data: {message}")
            elif not stages[source.stage].makes_data:
                kind = stages[source.stage].kind
                message = f"{source.stage} is a {kind} stage and makes no data; name one that does"
                yield loaded.finding(("stages", name), f"a source of its data: {message}")


def _bad_models(loaded: config.Loaded[Any]) -> Iterator[Finding]:
    run: RunConfig = loaded.value
    for name, stage in run.stages.items():
        if stage.model is None:
            continue
        path = ("stages", name, "model")
        if stage.model not in run.models:
            meant = near(stage.model, list(run.models))
            hint = f"did you mean {meant}?" if meant else f"there are {', '.join(run.models) or 'none'}"
            yield loaded.finding(path, f"no {stage.model!r} in models; {hint}")
        elif stage.init in run.stages and run.model_name(stage.init) != stage.model:
            theirs = run.model_name(stage.init) or "the run's own"
            yield loaded.finding(
                path, f"{stage.model!r}, but stage {stage.init} has the model {theirs}; they must be the same"
            )


def _not_earlier(name: str, earlier: list[str], *, later: list[str]) -> str:
    if name in later:
        own = name == later[0]
        return f"{name!r} is {'this stage itself' if own else 'a later stage; move it before this one'}"
    meant = near(name, earlier)
    hint = f"did you mean {meant}?" if meant else f"earlier stages: {', '.join(earlier) or 'none'}"
    return f"no earlier stage {name!r}; {hint}"
