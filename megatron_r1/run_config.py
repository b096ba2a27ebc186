"""The whole configuration of a run: a model, a layout and a chain of named stages.

The kinds of stage and the model families come from the registry, so the exact class is made when it is first
asked for; `RunConfig` is what the code is written against.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model

from megatron_r1 import config, registry
from megatron_r1.backend.layout import Layout
from megatron_r1.config.explain import near
from megatron_r1.config.section import Section
from megatron_r1.config.tree import Finding
from megatron_r1.data.tokenizer import TokenizerConfig
from megatron_r1.launch.slurm.section import Slurm
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.plan.section import PlanConfig
from megatron_r1.stages.section import StageConfig

HF = "hf:"  # marks the path of a Hugging Face checkpoint


def _plain(name: str) -> str:
    """Names become directories, and the parts of a.b=c."""
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(f"a name is letters, digits, _ and -, got {name!r}")
    return name


Name = Annotated[str, AfterValidator(_plain)]


class RunConfig(Section):
    """One run: stages in the order of the chain, all with the same model, layout and tokenizer."""

    name: Name
    """Name of the run and of its directory."""

    run_dir: str = "runs"
    """Where run directories are made."""

    seed: int = 0
    """Decides weights, data order and samples; the same in every layout."""

    tokenizer: TokenizerConfig
    """How text becomes tokens."""

    template: str
    """Name of the chat template."""

    model: FamilyConfig
    """The model, by family."""

    layout: Layout = Layout()
    """How the ranks share the work."""

    precision: Literal["fp32", "bf16", "fp8_delayed", "fp8_current", "fp8_blockwise", "mxfp8"] = "fp32"
    """Of the matrix products; weights, gradients and sums are kept in fp32."""

    rollout_engine: Literal["megatron", "dynamic"] = "megatron"
    """What samples, on the live weights. megatron: our loop over Megatron's modules, for every model and
    layout. dynamic: Megatron's DynamicInferenceEngine (paged cache, continuous batching), for grouped-query
    attention. The tokens are the same."""

    recompute: Literal["none", "selective", "full"] = "none"
    """Activations that the backward pass computes again instead of keeping them: none, attention's inner part
    (selective), or whole layers (full). The result is the same to the bit."""

    timeout_s: float = Field(default=1800.0, gt=0)
    """How long a rank waits for the others before it takes them for dead."""

    watchdog_s: float | None = Field(default=None, gt=0)
    """How long a rank may take over one step, evaluations included, before it says where it hangs and ends
    the run (exit code 9). Set it well above the longest step, and below timeout_s; null: for ever."""

    plan: PlanConfig = PlanConfig()
    """What the run is planned for before it starts."""

    slurm: Slurm = Slurm()
    """How the run is submitted to a SLURM cluster."""

    stages: Annotated[dict[Name, StageConfig], Field(min_length=1)]
    """The chain: stages by name, run from the first to the last."""


@cache
def run_config_class() -> type[RunConfig]:
    """RunConfig with the model families and stage kinds that are there."""

    def narrowed(name: str, annotation: Any) -> tuple[Any, Any]:
        field = RunConfig.model_fields[name]
        return annotation, Field(description=field.description)

    stages: Any = dict[Name, registry.union(registry.stages(), "kind")]
    return create_model(
        "RunConfig",
        __base__=RunConfig,
        __doc__=RunConfig.__doc__,
        model=narrowed("model", registry.union(registry.families(), "family")),
        stages=narrowed("stages", Annotated[stages, Field(min_length=1)]),
    )


def load_run(
    path: Path, *, overrides: Sequence[str] = (), site: Path | None = None
) -> config.Loaded[RunConfig]:
    """Read and validate a run, over a site's profile. ConfigError lists every finding, one a line."""
    loaded = config.load(path, run_config_class(), overrides=overrides, below=site)
    config.refuse(bad_inits(loaded))
    return loaded


def json_schema() -> dict[str, Any]:
    return config.json_schema(run_config_class())


def bad_inits(loaded: config.Loaded[Any]) -> Iterator[Finding]:
    """Stages that start from what is not there by then."""
    names = list(loaded.value.stages)
    for number, (name, stage) in enumerate(loaded.value.stages.items()):
        init, earlier = stage.init, names[:number]
        if init is None or init in earlier or (init.startswith(HF) and init != HF):
            continue
        yield loaded.finding(("stages", name, "init"), _bad_init(init, earlier, later=names[number:]))


def _bad_init(init: str, earlier: list[str], *, later: list[str]) -> str:
    if init in later:
        own = init == later[0]
        return f"{init!r} is {'this stage itself' if own else 'a later stage; move it before this one'}"
    meant = near(init, earlier)
    hint = f"did you mean {meant}?" if meant else f"earlier stages: {', '.join(earlier) or 'none'}"
    return f"no earlier stage {init!r}; {hint} (or hf:PATH, or null for random weights)"
