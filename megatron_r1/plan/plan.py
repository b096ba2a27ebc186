"""`megatron-r1 plan`: memory, time and communication of each stage of a run, and whether it fits the GPU."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_r1.backend.model.precision import Precision
from megatron_r1.plan.hardware import Hardware, load_hardware
from megatron_r1.plan.memory import RankMemory, rank_memory
from megatron_r1.plan.work import Work, work
from megatron_r1.run.config import RunConfig

if TYPE_CHECKING:
    from megatron_r1.backend.memory_shards import Shard

GIB = 1024**3
CHECKPOINT_BYTES = 12  # per trained weight, beside the weight itself: fp32 master and two moments


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The plan of one stage. memory: by pipeline rank. checkpoint_bytes: the size of one checkpoint."""

    name: str
    memory: list[RankMemory]
    work: Work
    steps: int
    checkpoint_bytes: float
    checkpoints: int

    @property
    def fullest(self) -> RankMemory:
        return max(self.memory, key=lambda rank: rank.peak)


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run on a kind of GPU. parameters: without MTP; mtp_parameters: in the MTP layers."""

    hardware_name: str
    hardware: Hardware
    parameters: int
    mtp_parameters: int
    stages: list[StagePlan]
    unplanned: list[str]

    def summary(self) -> list[tuple[str, str]]:
        """(stage, its peak memory and hours) for each stage."""
        return [
            (
                stage.name,
                f"peak {stage.fullest.peak / GIB:.1f} GiB a rank, {stage.work.hours:,.1f} h, "
                f"{stage.work.gpu_hours:,.0f} GPU-hours",
            )
            for stage in self.stages
        ]

    def misfits(self) -> list[str]:
        """A message for each stage that does not fit: the phase, the rank, and a remedy."""
        found = []
        for stage in self.stages:
            phase, needed = max(stage.fullest.phases().items(), key=lambda pair: pair[1])
            if needed > self.hardware.usable_bytes:
                have = f"{self.hardware.usable_bytes / GIB:.0f} GiB of a {self.hardware_name} are usable"
                where = f"{phase} needs {needed / GIB:.0f} GiB on pipeline rank {stage.fullest.pipeline_rank}"
                found.append(f"stages.{stage.name}: {where}, {have}; {_remedy(stage.fullest, phase)}")
        return found


def shards_of(run: RunConfig) -> "list[Shard]":
    """The shards of the run's model and layout."""
    from megatron_r1.backend.memory_shards import shards
    from megatron_r1.backend.model.build import ModelOptions  # Megatron takes seconds to import

    return shards(run.model, run.layout, ModelOptions(precision=_kept_as(run)))


def _kept_as(run: RunConfig) -> Precision:
    """The precision of the stored weights. FP8 changes only the products, and building it needs a GPU."""
    return "fp32" if run.precision == "fp32" else "bf16"


def make_plan(run: RunConfig, hardware_name: str, *, built: "list[Shard] | None" = None) -> Plan:
    """Plan every stage whose kind has a demand. The layout must be valid (`check` runs before).

    built: the shards, if they are known.
    """
    hardware, stages, unplanned = load_hardware(hardware_name), [], []
    by_model: dict[str | None, list[Shard]] = {None: shards_of(run) if built is None else built}
    sampled: dict[str | None, list[Shard]] = {}

    def known(stage: str) -> "list[Shard]":
        model = run.model_name(stage)
        if model not in by_model:
            by_model[model] = shards_of(run.for_stage(stage))
        return by_model[model]

    def known_sampler(stage: str) -> "list[Shard] | None":
        """The shards in the rollout's layout; None if it is the training layout."""
        if run.sampling_layout.places_like(run.layout):
            return None
        model = run.model_name(stage)
        if model not in sampled:
            own = run.rollout.model_copy(update={"layout": None})
            update = {"layout": run.sampling_layout, "rollout": own}
            sampled[model] = shards_of(run.for_stage(stage).model_copy(update=update))
        return sampled[model]

    for name, stage in run.stages.items():
        own = run.for_stage(name)
        demand = stage.demand(own)
        if demand is None:
            unplanned.append(name)
            continue
        found, others = known(name), [known(other) for other in demand.other_models]
        sampling = known_sampler(name) if demand.outputs else None
        memory = rank_memory(own, demand, found, others=others, sampling=sampling)
        total = sum(_sizes(found))
        weights = total * (4 if _kept_as(run) == "fp32" else 2)
        size = weights + total * CHECKPOINT_BYTES if demand.updates else 0
        moved = max(rank.moved for rank in memory)
        steps = work(
            own, demand, found, hardware, sampling=sampling, checkpoint_bytes=size, offload_bytes=moved
        )
        stages.append(StagePlan(name, memory, steps, demand.steps, size, demand.checkpoints))
    parameters, mtp_parameters = _sizes(by_model[None])
    return Plan(hardware_name, hardware, parameters, mtp_parameters, stages, unplanned)


def _sizes(found: "list[Shard]") -> tuple[int, int]:
    """(parameters of the whole model without MTP, parameters of its MTP layers)."""
    return sum(shard.whole for shard in found), sum(shard.whole_mtp for shard in found)


def _remedy(rank: RankMemory, phase: str) -> str:
    """What to change, by what takes the most memory in the phase."""
    parts = {
        "rollout": (rank.kv_cache, "lower rollout.max_concurrent, the outputs that run at once"),
        "log-probs": (rank.forward + rank.logits, "lower tokens_per_pack or raise layout.context"),
        "training": (
            rank.activations + rank.logits,
            "recompute=full, lower tokens_per_pack, or raise layout.context or layout.tensor",
        ),
    }
    size, remedy = parts.get(phase, (0.0, ""))
    if size > rank.resident:
        return remedy
    return "weights and optimizer take most: more ranks, or a higher layout.pipeline, expert or tensor"
