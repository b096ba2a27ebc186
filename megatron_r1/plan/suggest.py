"""`megatron-r1 plan --suggest GPUS`: estimates every valid layout and plans the best five.

Layouts are ranked by seconds per step, summed over the stages, with no communication overlapped. If none
fits, those that lack the least memory come first. Building a large model in one layout takes a second and
there are hundreds, so all are estimated from the sizes of one build, and only the best are built.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_r1.backend.memory_shards import Shard
from megatron_r1.backend.model.precision import parameter_dtype
from megatron_r1.config.layout import Layout, even_split, problems, split_layers
from megatron_r1.errors import ConfigError
from megatron_r1.models.shape import ModelShape
from megatron_r1.plan.plan import GIB, Plan, make_plan, shards_of
from megatron_r1.run.config import RunConfig

SHOWN = 5
MAX_TENSOR = 8  # beyond a node's GPUs, every layer would communicate over the network
MAX_CONTEXT = 16


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A layout with its plan. seconds: of a step, summed over the stages."""

    layout: Layout
    plan: Plan

    @property
    def seconds(self) -> float:
        works = [stage.work for stage in self.plan.stages]
        return sum(one.train_s + one.score_s + one.rollout_s + one.links_s for one in works)

    @property
    def order(self) -> tuple[float, float]:
        """The sort key; smaller is better."""
        return round(self.missing_gib, 2), self.seconds

    @property
    def missing_gib(self) -> float:
        """GiB that the fullest rank lacks; 0 if it fits."""
        peak = max(stage.fullest.peak for stage in self.plan.stages)
        return max(0.0, peak - self.plan.hardware.usable_bytes) / GIB


def suggestions(run: RunConfig, hardware: str, *, gpus: int) -> str:
    """The report. ConfigError if no layout of so many GPUs fits the model and the stages' batches."""
    own = run.rollout.model_copy(update={"layout": None})  # each candidate generates in its own layout
    run = run.model_copy(update={"rollout": own})
    sizes = _sizes(run)
    tried = list(_runs(run, gpus))
    guesses = [Suggestion(one.layout, make_plan(one, hardware, built=_guess(one, sizes))) for one in tried]
    if not any(guess.plan.stages for guess in guesses):
        raise ConfigError(
            f"--suggest {gpus}: no layout of {gpus} ranks satisfies the model and the stages; try another "
            "number, such as a multiple of 8"
        )
    fitting = sum(not guess.missing_gib for guess in guesses)
    best = sorted(zip(guesses, tried, strict=True), key=lambda pair: pair[0].order)[:SHOWN]
    found = [Suggestion(one.layout, make_plan(one, hardware)) for _, one in best]
    found.sort(key=lambda one: one.order)
    head = f"{run.name} on {gpus} x {hardware}: of {len(guesses)} layouts {fitting} fit, by an estimate"
    return "\n".join([head, *(_line(number, one) for number, one in enumerate(found, start=1))])


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Elements of the mean layer without its experts, of its experts, and of one embedding."""

    layer: float
    experts: float
    embedding: float


def _sizes(run: RunConfig) -> _Sizes:
    """The sizes from one build, which has one expert on each rank to be quick."""
    shape = run.model.shape()
    count = max(1, shape.num_experts)
    (shard,) = shards_of(run.model_copy(update={"layout": Layout(ranks=count, expert=count)}))
    embedding = shape.vocab_size * run.model.transformer_config()["hidden_size"]
    experts = shard.expert_parameters * count
    layers = shard.parameters - shard.expert_parameters - 2 * embedding
    with_experts = max(1, shape.num_layers - shape.num_dense_layers + shape.num_mtp_layers)
    each = experts / with_experts
    return _Sizes(layers / (shape.num_layers + shape.num_mtp_layers), each, embedding)


def _guess(run: RunConfig, sizes: _Sizes) -> list[Shard]:
    """Estimated shards for make_plan, as if all layers had the mean size."""
    layout, shape = run.layout, run.model.shape()
    width = parameter_dtype(run.precision).itemsize
    rows = split_layers(layout, shape)
    found = []
    for stage in range(layout.pipeline):
        letters = "".join(rows[stage :: layout.pipeline])
        layers = letters.count("t") + letters.count("m")
        tables = ("E" in letters) + ("L" in letters)
        dense = int((layers * sizes.layer + tables * sizes.embedding) / layout.tensor)
        experts = int(layers * sizes.experts / layout.expert)
        layers_only = int(layers * sizes.layer / layout.tensor) + experts
        replicas = layout.data * layout.context if layout.distributed_optimizer else 1
        copies = layout.expert_data if layout.distributed_optimizer else 1
        found.append(
            Shard(
                pipeline_rank=stage,
                parameters=dense + experts,
                mtp_parameters=0,
                expert_parameters=experts,
                whole=0,
                whole_mtp=0,
                parameter_bytes=width * (dense + experts),
                gradient_bytes=4 * (dense + experts),
                other_bytes=0,
                rounded=layers_only,
                fp8_bytes=layers_only,
                mtp_fp8_bytes=0,
                optimizer_dense=(dense // replicas,),
                optimizer_expert=(experts // max(1, copies),),
            )
        )
    return found


def _runs(run: RunConfig, gpus: int) -> Iterator[RunConfig]:
    """The run in every layout that its stages accept."""
    for layout in layouts(run.model.shape(), gpus, base=run.layout):
        tried = run.model_copy(update={"layout": layout})
        if not any(stage.problems(tried) for stage in run.stages.values()):
            yield tried


def layouts(shape: ModelShape, gpus: int, *, base: Layout) -> Iterator[Layout]:
    """Every valid layout of so many ranks. base: its other fields, such as the optimizer's, are kept."""
    for tensor in _divisors(gpus, MAX_TENSOR):
        for pipeline in _divisors(gpus // tensor, shape.num_layers):
            for context in _divisors(gpus // tensor // pipeline, MAX_CONTEXT):
                experts = _divisors(gpus // pipeline, shape.num_experts) if shape.num_experts else [1]
                for expert in experts:
                    layout = base.model_copy(
                        update={
                            "ranks": gpus,
                            "tensor": tensor,
                            "pipeline": pipeline,
                            "virtual_pipeline": 1,
                            "pipeline_split": even_split(shape, pipeline=pipeline),
                            "context": context,
                            "expert": expert,
                            "expert_tensor": 1,
                        }
                    )
                    if not problems(layout, shape):
                        yield layout


def _divisors(number: int, limit: int) -> list[int]:
    return [n for n in range(1, min(number, limit) + 1) if number % n == 0]


def _line(number: int, one: Suggestion) -> str:
    layout = one.layout
    degrees = ", ".join(
        f"{name}: {getattr(layout, name)}" for name in ("ranks", "tensor", "pipeline", "context", "expert")
    )
    split = f', pipeline_split: "{layout.pipeline_split}"' if layout.pipeline_split else ""
    fullest = max((stage.fullest for stage in one.plan.stages), key=lambda rank: rank.peak)
    fits = f"lacks {one.missing_gib:.0f} GiB" if one.missing_gib else "fits"
    works = [stage.work for stage in one.plan.stages]
    train, rollout = sum(w.train_s + w.score_s for w in works), sum(w.rollout_s for w in works)
    links, bubble = sum(w.links_s for w in works), max(w.bubble for w in works)
    return (
        f"{number}. layout: {{{degrees}{split}}}\n"
        f"   {fits}: peak {fullest.peak / GIB:.1f} GiB on pipeline rank {fullest.pipeline_rank}\n"
        f"   {one.seconds:,.1f} s a step: training {train:,.1f} (bubble {bubble:.0%}), "
        f"rollout {rollout:,.1f}, sending {links:,.1f}"
    )
