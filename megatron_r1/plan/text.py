"""The printed plan: memory by part and phase, whether it fits, costs, and which numbers are exact.

Lines fit a terminal: tables have a row for each part and a column for each pipeline rank, in blocks of ranks.
"""

import textwrap
from collections.abc import Callable
from itertools import batched

from megatron_r1.plan.memory import RankMemory
from megatron_r1.plan.plan import GIB, Plan, StagePlan
from megatron_r1.run.config import RunConfig

WIDTH = 80  # characters of a line
RANKS_A_BLOCK = 8
PARTS: dict[str, Callable[[RankMemory], float]] = {
    "parameters": lambda rank: rank.parameters,
    "gradients": lambda rank: rank.gradients,
    "optimizer": lambda rank: rank.optimizer,
    "reference": lambda rank: rank.reference,
    "other models": lambda rank: rank.other_models,
    "other": lambda rank: rank.other,
    "rollout model": lambda rank: rank.rollout_model,
    "fp8 copy": lambda rank: rank.fp8_copy,
    "KV cache": lambda rank: rank.kv_cache,
    "activations": lambda rank: rank.activations,
    "logits": lambda rank: rank.logits,
}
EXACT = (
    "exact, from the real model code: parameters, gradients, optimizer, reference, other models (reward "
    "models and judges), other (buffers)"
)
MODELS = (
    "models: fp8 copy, KV cache, activations, logits, FLOPs, hours, bytes over the links (every copy of a "
    "token)"
)


def report(run: RunConfig, plan: Plan) -> str:
    """The whole text."""
    layout = run.layout
    title = (
        f"{run.name} on {layout.ranks} x {plan.hardware_name} ({plan.hardware.memory_gib:g} GiB, "
        f"{plan.hardware.reserved_gib:g} reserved), precision {run.precision}, recompute {run.recompute}"
    )
    size = f"model: {plan.parameters:,} parameters, and {plan.mtp_parameters:,} in MTP layers"
    parts = [f"{_wrapped(title)}\n{size}", *(_stage(stage, plan) for stage in plan.stages)]
    if len(plan.stages) > 1:
        parts.append(_total(plan))
    if plan.unplanned:
        unplanned = ", ".join(plan.unplanned)
        parts.append(_wrapped(f"not planned (their kinds don't say what they need): {unplanned}"))
    misfits = plan.misfits()
    parts.append("\n".join(map(_wrapped, misfits)) if misfits else "every planned stage fits")
    notes = (EXACT, MODELS, f"assumed: {_assumptions(run)}", _offloaded(run))
    parts.append("\n".join(map(_wrapped, notes)))
    return "\n\n".join(parts)


def _wrapped(text: str, *, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False
    )


def _stage(stage: StagePlan, plan: Plan) -> str:
    verdict = "fits" if stage.fullest.peak <= plan.hardware.usable_bytes else "DOES NOT FIT"
    head = f"{stage.name}: {verdict}, peak {stage.fullest.peak / GIB:.1f} GiB a rank (GiB by part and phase)"
    lines = [*_costs(stage), *_moved(stage, plan)]
    blocks = (_table(block) for block in batched(_grouped(stage.memory), RANKS_A_BLOCK))
    return "\n".join([_wrapped(head), *blocks, *(_wrapped(line, indent="  ") for line in lines)])


def _table(ranks: tuple[tuple[str, RankMemory], ...]) -> str:
    """A row for each part of non-zero size, one for each phase's peak, and the overall peak."""
    names, memories = zip(*ranks, strict=True)
    parts = {name: [size(memory) for memory in memories] for name, size in PARTS.items()}
    phases = {f"in {name}": [memory.phases()[name] for memory in memories] for name in memories[0].phases()}
    rows = [("pipeline rank", *names)]
    rows += [(name, *_gib(sizes)) for name, sizes in parts.items() if any(sizes)]
    rows += [(name, *_gib(sizes)) for name, sizes in phases.items()]
    rows.append(("peak", *_gib([memory.peak for memory in memories])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(["", row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def _gib(sizes: list[float]) -> list[str]:
    return [f"{size / GIB:.2f}" for size in sizes]


def _total(plan: Plan) -> str:
    """The totals of the planned stages, which run one after the other."""
    hours = sum(stage.work.hours for stage in plan.stages)
    gpu_hours = sum(stage.work.gpu_hours for stage in plan.stages)
    written = sum(stage.checkpoints * stage.checkpoint_bytes for stage in plan.stages)
    fullest = max(plan.stages, key=lambda stage: stage.fullest.peak)
    return _wrapped(
        f"total of {len(plan.stages)} stages: {hours:,.1f} h, {gpu_hours:,.0f} GPU-hours, peak "
        f"{fullest.fullest.peak / GIB:.1f} GiB a rank (in {fullest.name}), {written / 1e12:,.2f} TB of "
        "checkpoints written"
    )


def _offloaded(run: RunConfig) -> str:
    if not run.offload:
        return "offloaded: nothing, in no phase"
    moved = ", ".join(run.offload)
    return f"offloaded outside its phase, the optimizer and reference in stages with rollouts: {moved}"


def _moved(stage: StagePlan, plan: Plan) -> list[str]:
    """The host memory and time that offload takes; torch rounds pinned buffers up to powers of two."""
    moved = max(rank.moved for rank in stage.memory)
    if not moved:
        return []
    node = max(rank.host for rank in stage.memory) * plan.hardware.gpus_per_node / GIB
    return [
        f"offload: {node:,.0f} GiB of a node's memory ({2 * node:,.0f} at most, as pinned buffers are "
        f"rounded up), {moved / 1e9:,.1f} GB a GPU and step, {stage.work.offload_s:,.1f} s if "
        "nothing overlaps"
    ]


def _grouped(memory: list[RankMemory]) -> list[tuple[str, RankMemory]]:
    """Neighbouring pipeline ranks with equal sizes, merged into one column."""
    found: list[tuple[int, int, RankMemory]] = []
    for rank in memory:
        if found and _sizes(rank) == _sizes(found[-1][2]):
            found[-1] = (found[-1][0], rank.pipeline_rank, found[-1][2])
        else:
            found.append((rank.pipeline_rank, rank.pipeline_rank, rank))
    return [(f"{a}" if a == b else f"{a}-{b}", rank) for a, b, rank in found]


def _sizes(memory: RankMemory) -> list[str]:
    return _gib([size(memory) for size in PARTS.values()])


def _costs(stage: StagePlan) -> list[str]:
    work = stage.work
    seconds = (
        f"training {work.train_s:,.1f} s, log-probs {work.score_s:,.1f} s, rollout {work.rollout_s:,.1f} s"
    )
    if work.refit_bytes:
        seconds += f", refit {work.refit_s:,.1f} s of {work.refit_bytes / 1e9:,.1f} GB a GPU"
    links = (
        f"{work.node_bytes / 1e9:,.1f} GB in the node, {work.network_bytes / 1e9:,.1f} GB over the network"
    )
    return [
        f"a step: {work.flops:.3g} FLOPs; {seconds} (pipeline bubble {work.bubble:.0%})",
        f"a GPU sends a step: {links} ({work.links_s:,.1f} s if nothing overlaps)",
        f"{stage.steps:,} steps: {work.hours:,.1f} h, {work.gpu_hours:,.0f} GPU-hours",
        f"checkpoints: {stage.checkpoints}, {stage.checkpoint_bytes / 1e9:,.1f} GB each, "
        f"{work.checkpoint_s:,.1f} s each",
    ]


def _assumptions(run: RunConfig) -> str:
    plan = run.plan
    return (
        f"MFU {plan.mfu:g} of the BF16 peak, outputs {plan.mean_length:g} of the longest on average, "
        f"prompts of {plan.prompt_tokens} tokens, {plan.bandwidth_share:g} of a bandwidth, "
        f"{plan.layer_latency_us:g} us a layer and decoded token, {plan.storage_gb_s:g} GB/s to storage"
    )
