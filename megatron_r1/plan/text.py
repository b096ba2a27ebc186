"""A plan in words: what fits, what fills it, what it costs, and which numbers are exact."""

from megatron_r1.plan.memory import RankMemory
from megatron_r1.plan.plan import GIB, Plan, StagePlan
from megatron_r1.run_config import RunConfig

COLUMNS = (
    "parameters",
    "gradients",
    "optimizer",
    "reference",
    "other_models",
    "other",
    "rollout_model",
    "kv_cache",
    "activations",
    "logits",
)
EXACT = (
    "exact, from the real model code: parameters, gradients, optimizer, reference, other_models (reward "
    "models and judges), other (buffers)"
)
MODELS = "models: kv_cache, activations, logits, FLOPs, hours, bytes over the links (every copy of a token)"


def report(run: RunConfig, plan: Plan) -> str:
    """The whole text."""
    layout = run.layout
    title = (
        f"{run.name} on {layout.ranks} x {plan.hardware_name} ({plan.hardware.memory_gib:g} GiB, "
        f"{plan.hardware.reserved_gib:g} reserved), precision {run.precision}, recompute {run.recompute}"
    )
    size = f"model: {plan.parameters:,} parameters, and {plan.mtp_parameters:,} in MTP layers"
    parts = [title, size, *(_stage(stage, plan) for stage in plan.stages)]
    if plan.unplanned:
        parts.append(f"not planned (their kinds don't say what they need): {', '.join(plan.unplanned)}")
    misfits = plan.misfits()
    parts.append("\n".join(misfits) if misfits else "every planned stage fits")
    parts.append(f"{EXACT}\n{MODELS}\nassumed: {_assumptions(run)}\n{_offloaded(run)}")
    return "\n\n".join(parts)


def _stage(stage: StagePlan, plan: Plan) -> str:
    rows: list[tuple[str, ...]] = [("pipeline rank", *COLUMNS, *stage.fullest.phases())]
    for ranks, memory in _grouped(stage.memory):
        sizes = [getattr(memory, column) for column in COLUMNS]
        rows.append((ranks, *(f"{size / GIB:.2f}" for size in [*sizes, *memory.phases().values()])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["  " + "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    verdict = "fits" if stage.fullest.peak <= plan.hardware.usable_bytes else "DOES NOT FIT"
    head = f"{stage.name}: {verdict}, peak {stage.fullest.peak / GIB:.1f} GiB a rank (GiB by part and phase)"
    return "\n".join([head, *table, *_costs(stage), *_moved(stage, plan)])


def _offloaded(run: RunConfig) -> str:
    if not run.offload:
        return "offloaded: nothing, in no phase"
    moved = ", ".join(run.offload)
    return f"offloaded outside its phase, the optimizer and reference in stages with rollouts: {moved}"


def _moved(stage: StagePlan, plan: Plan) -> list[str]:
    """What offload takes of the host; torch rounds pinned buffers up to powers of two."""
    moved = max(rank.moved for rank in stage.memory)
    if not moved:
        return []
    node = max(rank.host for rank in stage.memory) * plan.hardware.gpus_per_node / GIB
    return [
        f"  offload: {node:,.0f} GiB of a node's memory ({2 * node:,.0f} at most, as pinned buffers are "
        f"rounded up), {moved / 1e9:,.1f} GB a GPU and step, {stage.work.offload_s:,.1f} s if "
        "nothing overlaps"
    ]


def _grouped(memory: list[RankMemory]) -> list[tuple[str, RankMemory]]:
    """Neighbouring pipeline ranks with the same sizes in one row, those in flight apart."""
    found: list[tuple[int, int, RankMemory]] = []
    for rank in memory:
        sizes = [round(getattr(rank, column) / GIB, 2) for column in COLUMNS]
        if found and sizes == [round(getattr(found[-1][2], column) / GIB, 2) for column in COLUMNS]:
            found[-1] = (found[-1][0], rank.pipeline_rank, found[-1][2])
        else:
            found.append((rank.pipeline_rank, rank.pipeline_rank, rank))
    return [(f"{a}" if a == b else f"{a}-{b}", rank) for a, b, rank in found]


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
        f"  a step: {work.flops:.3g} FLOPs; {seconds} (pipeline bubble {work.bubble:.0%})",
        f"  a GPU sends a step: {links} ({work.links_s:,.1f} s if nothing overlaps)",
        f"  {stage.steps:,} steps: {work.hours:,.1f} h, {work.gpu_hours:,.0f} GPU-hours",
        f"  checkpoints: {stage.checkpoints}, {stage.checkpoint_bytes / 1e9:,.1f} GB each, "
        f"{work.checkpoint_s:,.1f} s each",
    ]


def _assumptions(run: RunConfig) -> str:
    plan = run.plan
    return (
        f"MFU {plan.mfu:g} of the BF16 peak, outputs {plan.mean_length:g} of the longest on average, "
        f"prompts of {plan.prompt_tokens} tokens, {plan.bandwidth_share:g} of a bandwidth, "
        f"{plan.layer_latency_us:g} us a layer and decoded token, {plan.storage_gb_s:g} GB/s to storage"
    )
