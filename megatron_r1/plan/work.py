"""Estimates of a stage's FLOPs, communication and hours; their assumptions are in the `plan:` section.

Training time is the model's FLOPs over an assumed share of the peak, plus the pipeline's bubble. Decoding is
bound by reading the weights and the KV cache once per token, one pipeline stage after the other. Links: all
bytes that a GPU sends in a step. Weight sync: all weights of a GPU's rollout model, sent over the network,
although some are already in place.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_r1.backend.model.precision import parameter_dtype
from megatron_r1.models.flops import PASSES, token_cost
from megatron_r1.plan.hardware import Hardware
from megatron_r1.plan.memory import kv_cache
from megatron_r1.run.config import RunConfig
from megatron_r1.stages.base import Demand

if TYPE_CHECKING:
    from megatron_r1.backend.memory_shards import Shard

FP32 = 4


@dataclass(frozen=True, slots=True)
class Work:
    """Of a step: FLOPs of all ranks, seconds by part, bytes that a GPU sends. Of the stage: hours."""

    flops: float
    train_s: float
    score_s: float
    rollout_s: float
    refit_bytes: float
    refit_s: float
    offload_s: float  # if nothing overlaps
    node_bytes: float
    network_bytes: float
    links_s: float
    checkpoint_s: float  # for one checkpoint
    bubble: float  # share of the training time in which a pipeline rank waits
    hours: float
    gpu_hours: float


def work(
    run: RunConfig,
    demand: Demand,
    shards: "list[Shard]",
    hardware: Hardware,
    *,
    sampling: "list[Shard] | None",
    checkpoint_bytes: float,
    offload_bytes: float = 0.0,
) -> Work:
    """The costs of a step and of the whole stage.

    sampling: as in rank_memory. offload_bytes: between the busiest GPU and its host in a step.
    """
    layout, plan = run.layout, run.plan
    share = plan.mean_length if demand.outputs else 1.0
    tokens = demand.trained_tokens * share
    length = (demand.output_tokens or demand.pack_tokens) * share
    trained = tokens * token_cost(run.model, mtp=demand.mtp).training_flops(int(length))
    forward = tokens * token_cost(run.model).training_flops(int(length)) / PASSES
    scored = forward * demand.scored_passes
    again = forward if run.recompute == "full" else 0.0
    speed = layout.ranks * hardware.bf16_tflops * 1e12 * plan.mfu
    bubble = _bubble(run, demand)
    train_s, score_s = (trained + again) / speed / (1 - bubble), scored / speed
    rollout_s = _rollout_seconds(run, demand, shards if sampling is None else sampling, hardware)
    width = parameter_dtype(run.precision).itemsize
    refit = max((float(width * shard.parameters) for shard in sampling or []), default=0.0)
    refit_s = refit / (hardware.network_gb_s * 1e9 * plan.bandwidth_share)
    offload_s = offload_bytes / (hardware.host_gb_s * 1e9 * plan.bandwidth_share)
    node, network = _sent(run, demand, shards, hardware)
    links_s = node / (hardware.node_gb_s * 1e9) + network / (hardware.network_gb_s * 1e9)
    links_s /= plan.bandwidth_share
    checkpoint_s = checkpoint_bytes / (plan.storage_gb_s * 1e9)
    seconds = demand.steps * (train_s + score_s + refit_s + offload_s + rollout_s)
    seconds += demand.checkpoints * checkpoint_s
    hours = seconds / 3600
    return Work(
        trained + scored + again, train_s, score_s, rollout_s, refit, refit_s, offload_s, node,
        network, links_s, checkpoint_s, bubble, hours, hours * layout.ranks,
    )  # fmt: skip


def _bubble(run: RunConfig, demand: Demand) -> float:
    """(p - 1) / (m v + p - 1) of a pipeline of p stages, v chunks each, m micro-batches (2104.04473)."""
    layout = run.layout
    if layout.pipeline == 1 or not demand.updates:
        return 0.0
    share = run.plan.mean_length if demand.outputs else 1.0
    packs = demand.trained_tokens * share / demand.updates / layout.data / demand.pack_tokens
    waiting = layout.pipeline - 1
    return waiting / (max(packs, 1.0) * layout.virtual_pipeline + waiting)


def _rollout_seconds(run: RunConfig, demand: Demand, shards: "list[Shard]", hardware: Hardware) -> float:
    """Seconds of decoding: each step reads the weights and, on average, half of a mean completion's KV cache.

    shards: of the rollout's layout. The longest completion takes output_tokens steps. If the batch has fewer
    slots than completions, each slot decodes its share of all tokens, and the last completion to enter may be
    the longest. Completions that start some steps ahead may take as many rollouts longer.
    """
    if not demand.outputs:
        return 0.0
    width = parameter_dtype(run.precision).itemsize
    read = sum(width * (shard.parameters - shard.mtp_parameters) for shard in shards)
    if run.rollout.precision is not None:
        read -= sum(width * shard.rounded - shard.fp8_bytes for shard in shards)
    read += sum(kv_cache(run, demand)) * run.plan.mean_length / 2
    a_token = read / (hardware.memory_gb_s * 1e9 * run.plan.bandwidth_share)
    a_token += run.model.shape().num_layers * run.plan.layer_latency_us * 1e-6
    outputs = -(-demand.outputs // run.sampling_layout.data)
    turns, mean = outputs / min(outputs, run.rollout.max_concurrent or outputs), run.plan.mean_length
    if demand.max_off_policy_steps:
        rollouts = 1 + demand.max_off_policy_steps
        turns = outputs / min(outputs * rollouts, run.rollout.max_concurrent or outputs * rollouts)
        return demand.output_tokens * max(1 / rollouts, turns * mean) * a_token
    return demand.output_tokens * (1 + (turns - 1) * mean) * a_token


def _sent(run: RunConfig, demand: Demand, shards: "list[Shard]", hardware: Hardware) -> tuple[float, float]:
    """Bytes that the busiest GPU sends a training step inside its node and to others.

    Ranks are numbered with tensor, context, expert and data parallelism from the inside and pipeline ranks
    outermost (Megatron's order), so a share of min(1, gpus_per_node / n) of a group of n stays in a node.
    """
    layout, config = run.layout, run.model.transformer_config()
    width = parameter_dtype(run.precision).itemsize
    hidden = config["hidden_size"]
    share = run.plan.mean_length if demand.outputs else 1.0
    mine = demand.trained_tokens * share / layout.data / layout.context / layout.tensor  # this rank's tokens
    layers = -(-config["num_layers"] // layout.pipeline)
    passes = 2 + demand.scored_passes  # forward and backward, and the forward passes of log-probs
    groups: list[tuple[int, float]] = []  # (ranks of the group, bytes that a rank sends)
    if layout.tensor > 1:  # two gathers and two scatters of the hidden states per layer and pass
        others = layout.tensor - 1
        groups.append((layout.tensor, 4 * layers * passes * mine * others * hidden * width))
    if layout.expert > 1:  # dispatch and combine
        others = (layout.expert - 1) / layout.expert
        experts_bytes = 2 * layers * passes * mine * config["moe_router_topk"] * hidden * width * others
        groups.append((layout.tensor * layout.context * layout.expert, experts_bytes))
    if layout.pipeline > 1:
        groups.append((layout.ranks, passes * mine * hidden * width))
    groups += _reduced(run, demand, shards, width)
    near = sum(sent * min(1.0, hardware.gpus_per_node / ranks) for ranks, sent in groups)
    return near, sum(sent for _, sent in groups) - near


def _reduced(run: RunConfig, demand: Demand, shards: "list[Shard]", width: int) -> list[tuple[int, float]]:
    """(ranks, bytes) of reducing fp32 gradients and gathering weights, on the largest pipeline rank."""
    layout = run.layout
    found = []
    replicas = layout.data * layout.context
    dense = max(shard.parameters - shard.expert_parameters for shard in shards)
    experts = max(shard.expert_parameters for shard in shards)
    for elements, ranks in ((dense, replicas), (experts, layout.expert_data)):
        if ranks > 1:
            sent = demand.updates * elements * (FP32 + width) * (ranks - 1) / ranks
            found.append((layout.ranks // layout.pipeline, sent))
    return found
