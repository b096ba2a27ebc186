"""How a run samples: its section of the YAML, and one table of what each engine can do.

The table is the only place of these rules: `check`, the policy, grpo and docs/engines.md are made from it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Annotated, Literal, get_args

from pydantic import Field

from megatron_r1.config.layout import Layout
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.section import NO_EFFECT, Section

Engine = Literal["megatron", "modules", "dynamic", "nemo"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
EVERYTHING = "megatron"  # the engine that can do all of the table
NEMO_REMEDY = (
    "`make nemo` builds the environment that has it (docs/engines.md): start the run with "
    ".venv-nemo/bin/megatron-r1, or use megatron or dynamic"
)


class StageRollout(Section):
    """What a grpo stage has otherwise than the run's `rollout`."""

    max_off_policy_steps: int | None = Field(default=None, ge=0)
    """As the run's; null: the run's value."""

    overlap_rewards: Annotated[bool | None, NO_EFFECT] = None
    """As the run's; null: the run's value."""


class Rollout(Section):
    """How a run samples."""

    layout: Annotated[Layout | None, NO_EFFECT] = None
    """How the ranks share the work while they sample; `ranks` is that of the run's `layout`. The weights are
    copied into a second model before each rollout that follows an update; the tokens are the same. null: as
    the run's `layout`, on the weights that train, with no copy."""

    engine: Annotated[Engine, NO_EFFECT] = "megatron"
    """What samples, on the live weights. megatron: our loop over the parameters of Megatron's modules, with
    MLA's latents as its cache. modules: the same loop through the modules themselves; slower, with a larger
    cache for MLA, and the next prompts begin only when all have ended. dynamic: Megatron's
    DynamicInferenceEngine (paged cache), for grouped-query attention. nemo: the same engine by NeMo's
    `generate`, in an environment of its own. The tokens are the same. What each can do: docs/engines.md."""

    max_concurrent: Annotated[int | None, NO_EFFECT] = Field(default=None, ge=1)
    """The most completions that a data-parallel rank samples at once, which bounds the memory of its cache;
    the next begin as others end. null: all of a step's. The tokens are the same, but for rounding where two
    nearly tie."""

    speculation: Annotated[Literal["mtp"] | None, NO_EFFECT] = None
    """mtp: the MTP layer drafts a token each step, which the model checks beside the next one, so that a step
    gives up to two tokens. The tokens are the same, but for rounding where two nearly tie; metrics have the
    share of drafts that were right (rollout/accepted), which falls as RL moves the model, not its MTP layer.
    For a GPU with few completions and many layers; on a CPU it is mostly slower. Of the run's models, those
    with MTP layers draft, and one must have some."""

    precision: Literal["fp8"] | None = None
    """Of the matrix products while sampling. fp8: each rollout rounds a copy of the layers' weights to 8 bits
    (float8 e4m3, a scale a row) and every token's activations as they come; the head, the embedding, the
    router and attention's inner products stay as they are stored. Half of the bytes of bf16 a decoding step,
    and other probabilities than training's: grpo needs loss.rollout_correction with it, and rollout/drift
    says how far apart they are. On a GPU from compute capability 8.9; a CPU rounds alike and gains nothing
    (docs/fp8_rollouts.md). null: the weights as they are stored."""

    cuda_graphs: Annotated[bool, NO_EFFECT] = False
    """A decoding step as one CUDA graph: launching its operators one by one takes longer than they do where
    completions are few. A CPU takes the same steps without a graph. The tokens are the same, but for rounding
    where two nearly tie."""

    # each stage's own section has the value that holds for it, and decides its result
    max_off_policy_steps: Annotated[int, NO_EFFECT] = Field(default=0, ge=0)
    """Of grpo: steps between a question's first rollout and the step that trains on it. 0: synchronous. 1:
    one step off: a rollout ends when the completions due have, and the others go on in the next, with newer
    weights. It needs loss.rollout_correction. A stage's own `rollout` may say otherwise."""

    overlap_rewards: Annotated[bool, NO_EFFECT] = False
    """Of grpo: rules judge complete groups while others are being sampled, in the rollout's own layout. Worth
    it where they wait for other processes (code, mathematics). The same rewards. A stage's own `rollout` may
    say otherwise."""

    def features(self) -> dict[str, str]:
        """What it asks of its engine in any layout."""
        return features(speculation=self.speculation, precision=self.precision, cuda_graphs=self.cuda_graphs)

    def for_stage(self, own: StageRollout) -> StageRollout:
        """A stage's values, those that it leaves to the run filled in."""
        given = {name: value for name, value in own if value is not None}
        return StageRollout.model_validate(
            {name: getattr(self, name) for name in StageRollout.model_fields} | given
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something that a run asks of its rollouts.

    label: in docs/engines.md. key: where a conflict is reported. without: how to do without it, in words.
    engines: those that can't do it, and why. beside: the features that it doesn't work with, and why.
    """

    label: str
    key: str = "rollout.engine"
    without: str = ""
    engines: Mapping[Engine, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)


def _but(modules: str = "", megatrons: str = "", *, nemo: str = "") -> dict[Engine, str]:
    """Why the engines can't. megatrons: Megatron's own, which NeMo calls too."""
    reasons: dict[Engine, str] = {"modules": modules, "dynamic": megatrons, "nemo": megatrons or nemo}
    return {engine: why for engine, why in reasons.items() if why}


FEATURES: Mapping[str, Feature] = {
    "mla": Feature(
        label="MLA (DeepSeek-V3)",
        engines=_but(megatrons="can't run MLA on the modules that train (megatron-core 0.19.2)"),
    ),
    "tensor": Feature(label="`layout.tensor`"),
    "pipeline": Feature(label="`layout.pipeline`", without="set pipeline to 1"),
    "virtual_pipeline": Feature(
        label="`layout.virtual_pipeline`",
        without="set virtual_pipeline to 1",
        engines=_but(megatrons="has one chunk of layers a rank"),
    ),
    "context": Feature(
        label="`layout.context`",
        without="set context to 1",
        engines=_but("has RoPE's tables of a context rank's share", "shares no sequence between ranks"),
    ),
    "expert": Feature(
        label="`layout.expert`",
        without="set expert to 1",
        engines=_but(nemo="ends with a rank's own completions, while others wait for its experts"),
    ),
    "expert_tensor": Feature(label="`layout.expert_tensor`", without="set expert_tensor to 1"),
    "speculation": Feature(
        label="`rollout.speculation: mtp`",
        key="rollout.speculation",
        without="leave rollout.speculation out",
        engines=_but("checks no drafts", "checks no drafts"),
    ),
    "precision": Feature(
        label="`rollout.precision: fp8`",
        key="rollout.precision",
        without="leave rollout.precision out",
        engines=_but("multiplies by the weights as they are", "multiplies by the weights as they are"),
    ),
    "cuda_graphs": Feature(
        label="`rollout.cuda_graphs`",
        key="rollout.cuda_graphs",
        without="set rollout.cuda_graphs to false",
        engines=_but("takes its steps otherwise", "takes its steps otherwise"),
        beside={
            "pipeline": "it is the host that sends between pipeline stages",
            "expert": "a step's shapes depend on the other ranks' completions",
            "expert_tensor": "a step's shapes depend on the other ranks' completions",
            "speculation": "drafts feed two tokens a step",
        },
    ),
    "routing_replay": Feature(
        label="`routing_replay`",
        key="routing_replay",
        without="set routing_replay to false",
        engines=_but(megatrons="keeps no routes"),
        beside={"cuda_graphs": "a step as a graph notes no routes"},
    ),
    "top_p": Feature(label="`top_p` below 1", key="top_p", without="set top_p to 1"),
    "resample": Feature(
        label="`groups.no_signal: resample`",
        key="groups.no_signal",
        without="set groups.no_signal to keep or drop",
    ),
    "overlap_rewards": Feature(
        label="`rollout.overlap_rewards`",
        key="rollout.overlap_rewards",
        without="set rollout.overlap_rewards to false",
        engines=_but(megatrons="gives all completions at its end"),
    ),
    "max_off_policy_steps": Feature(
        label="`rollout.max_off_policy_steps`",
        key="rollout.max_off_policy_steps",
        without="set rollout.max_off_policy_steps to 0",
        engines=_but(megatrons="begins every completion anew"),
        beside={
            "routing_replay": "its completions have the routes of several weights",
            "overlap_rewards": "completions are judged when they are due",
            "top_p": "the tokens that top_p left out are not carried over",
            "resample": "it fixes which questions a step has",
        },
    ),
    "uncorrected": Feature(
        label="`loss.rollout_correction: none`",
        key="loss.rollout_correction",
        without="set loss.rollout_correction to truncate or mask",
        beside={
            "precision": "its tokens are drawn from other probabilities than those that train",
            "max_off_policy_steps": "its tokens are of older weights",
        },
    ),
    "on_policy_distillation": Feature(
        label="`kind: on_policy_distillation`",
        key="kind",
        beside={"precision": "the stage learns from samples of the student's own probabilities"},
    ),
}


def features(
    *, speculation: str | None = None, precision: str | None = None, cuda_graphs: bool = False
) -> dict[str, str]:
    """What is asked of an engine in any layout: the names of FEATURES, each with how it is written."""
    asked = {"speculation": speculation, "precision": precision, "cuda_graphs": "true" * cuda_graphs}
    return {name: f"rollout.{name}={value}" for name, value in asked.items() if value}


def layout_features(layout: Layout, *, key: str = "layout") -> dict[str, str]:
    """What the layout that samples asks; key: of its section."""
    degrees = ("tensor", "pipeline", "virtual_pipeline", "context", "expert", "expert_tensor")
    asked = {name: getattr(layout, name) for name in degrees}
    return {name: f"{key}.{name}={degree}" for name, degree in asked.items() if degree > 1}


def model_features(family: FamilyConfig) -> dict[str, str]:
    """What a model asks."""
    latent = family.transformer_config().get("multi_latent_attention")
    return {"mla": "multi-head latent attention"} if latent else {}


def conflicts(
    engine: Engine, asked: Mapping[str, str], beside: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Why the engine can't do what is asked, or not beside what else is: "key: what, the remedy".

    asked, beside: names of FEATURES, each with how it is written; `beside` alone is not judged.
    """
    others = {**(beside or {}), **asked}
    for name, written in asked.items():
        feature = FEATURES[name]
        value = written.removeprefix(f"{feature.key}=")
        if engine in feature.engines:
            why = f"rollout.engine={engine}, which {feature.engines[engine]}"
            yield _conflict(feature, value, why, f"use {EVERYTHING}", feature.without)
        for other in (other for other in feature.beside if other in others):
            why = f"{others[other]}: {feature.beside[other]}"
            yield _conflict(feature, value, why, feature.without, FEATURES[other].without)


def _conflict(feature: Feature, value: str, why: str, *remedies: str) -> str:
    return f"{feature.key}: {value} doesn't work with {why}; {', or '.join(filter(None, remedies))}"


def missing(engine: Engine) -> list[str]:
    """What this engine needs and this environment lacks."""
    if engine != "nemo":
        return []
    try:
        version = metadata.version("nemo-toolkit")
    except metadata.PackageNotFoundError:
        here = "which is not in this environment"
    else:
        if version.startswith("2.7."):
            return []
        here = f"and this environment has {version}"
    return [f"rollout.engine: nemo needs nemo-toolkit 2.7, {here}; {NEMO_REMEDY}"]


def tables() -> str:
    """The tables of docs/engines.md."""
    rows = [f"| | {' | '.join(f'`{engine}`' for engine in ENGINES)} |", "|---|" + "---|" * len(ENGINES)]
    for feature in FEATURES.values():
        if (
            feature.key != "loss.rollout_correction" and feature.key != "kind"
        ):  # of training, not of an engine
            cells = [f"no: {feature.engines[e]}" if e in feature.engines else "yes" for e in ENGINES]
            rows.append(f"| {feature.label} | {' | '.join(cells)} |")
    pairs = [
        f"| {feature.label} | {FEATURES[other].label} | {why} |"
        for feature in FEATURES.values()
        for other, why in feature.beside.items()
    ]
    return "\n".join([*rows, "", "| this | doesn't work with | since |", "|---|---|---|", *pairs, ""])


if __name__ == "__main__":
    import sys

    sys.stdout.write(tables())
