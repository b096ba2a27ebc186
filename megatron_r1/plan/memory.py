"""Bytes of one rank by phase, for each pipeline stage of a stage of the run.

Exact, because built from the real model code: parameters, gradients, optimizer, buffers, the reference.
Models: activations (plan/activations.py), the KV cache, logits. What `offload` names is in host memory
outside its phase (backend/train/cpu_offload.py); all else stays on the GPU, the rollout's own weights too
where it has a layout of its own; where it has none it reads the weights that train, and a refit needs
nothing.
"""

# T tokens of a pack, V vocabulary

from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_r1.backend.model.precision import parameter_dtype
from megatron_r1.config.layout import Layout, split_layers
from megatron_r1.models.shape import ModelShape
from megatron_r1.plan.activations import kept, working_layer
from megatron_r1.run.config import RunConfig
from megatron_r1.stages.base import Demand

if TYPE_CHECKING:
    from megatron_r1.backend.memory_shards import Shard

MOMENTS = 8  # Adam's two in fp32
MASTER = 4  # fp32 copies of weights that are narrower
FP8_COPIES = 2  # bytes a weight: Transformer Engine keeps it quantised by rows and by columns
FP32 = 4


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on a rank of one pipeline stage."""

    pipeline_rank: int
    parameters: float
    gradients: float
    optimizer: float
    reference: float
    other_models: float  # weights of reward models and judges
    largest_other: float  # of these
    other: float
    rollout_model: float  # weights in the rollout's layout
    fp8_copy: float  # of the layers' weights, while a rollout in FP8 runs
    kv_cache: float
    activations: float
    logits: float
    forward: float  # of a pass without gradients
    offload: frozenset[str]  # of run.offload, what moves in this stage

    @property
    def update_only(self) -> float:
        """Free from a rollout to the next update."""
        return self.gradients + self.optimizer if "optimizer" in self.offload else 0.0

    @property
    def pass_only(self) -> float:
        """Free outside the reference's pass."""
        return self.reference if "reference" in self.offload else 0.0

    @property
    def scoring_only(self) -> float:
        """Free where the models beside the policy are not asked."""
        return self.other_models if "reward_models" in self.offload else 0.0

    @property
    def host(self) -> float:
        """Pinned bytes; gradients are dropped, not kept."""
        return (self.optimizer if self.update_only else 0.0) + self.pass_only + self.scoring_only

    @property
    def moved(self) -> float:
        """Bytes between GPU and host in a step: the optimizer both ways; what passes leave as it is,
        the reference and the models beside the policy, one way."""
        return (2 * self.optimizer if self.update_only else 0.0) + self.pass_only + self.scoring_only

    @property
    def resident(self) -> float:
        """There in every phase, where nothing is offloaded."""
        weights = self.parameters + self.gradients + self.optimizer + self.reference
        return weights + self.other_models + self.other + self.rollout_model

    def phases(self) -> dict[str, float]:
        """The peak of each phase."""
        resident = self.resident - self.scoring_only
        sampling = resident - self.update_only - self.pass_only
        found = {
            "rollout": sampling + self.fp8_copy + self.kv_cache,
            "log-probs": resident - self.update_only + self.forward + self.logits,
            "training": resident - self.pass_only + self.activations + self.logits,
            "checkpoint": resident,
            "refit": sampling,
        }
        if self.scoring_only:  # one model at a time; a judge samples, a reward model takes a pass
            passing = max(self.fp8_copy + self.kv_cache, self.forward + self.logits)
            found["scoring"] = sampling + self.largest_other + passing
        return found

    @property
    def peak(self) -> float:
        return max(self.phases().values())


def rank_memory(
    run: RunConfig,
    demand: Demand,
    shards: "list[Shard]",
    *,
    others: "list[list[Shard]]",
    sampling: "list[Shard] | None" = None,
) -> list[RankMemory]:
    """One for each pipeline stage, at the replica that keeps the most of the optimizer.

    others: the shards of the models that are kept beside the policy. sampling: those of the rollout's layout,
    if it has one; which of its stages a rank has is not told apart, so that each counts the largest.
    """
    copy = max((_weights(run, shard) for shard in sampling or []), default=0.0)
    fp8 = max((_fp8_copy(run, demand, shard) for shard in sampling or []), default=0.0)
    return [
        _one(run, demand, shard, [model[i] for model in others], copy, fp8) for i, shard in enumerate(shards)
    ]


def _fp8_copy(run: RunConfig, demand: Demand, shard: "Shard") -> float:
    """Of a model while it samples, as only one does at a time."""
    if run.rollout.precision is None or not demand.outputs:
        return 0.0
    drafts = run.rollout.speculation and run.model.shape().num_mtp_layers
    return shard.fp8_bytes + (shard.mtp_fp8_bytes if drafts else 0)


def _weights(run: RunConfig, shard: "Shard") -> float:
    return parameter_dtype(run.precision).itemsize * shard.parameters + shard.other_bytes


def _one(
    run: RunConfig,
    demand: Demand,
    shard: "Shard",
    others: "list[Shard]",
    copy: float,
    fp8_of_copy: float,
) -> RankMemory:
    """copy, fp8_of_copy: of the rollout's own layout, 0 without one."""
    width = parameter_dtype(run.precision).itemsize
    trains = demand.updates > 0
    copies = FP8_COPIES * shard.parameters if run.precision not in ("fp32", "bf16") else 0
    optimizer = shard.optimizer_elements * (MOMENTS + (MASTER if width < FP32 else 0))
    caches = kv_cache(run, demand)
    activations, logits, forward = _activations(run, demand, shard.pipeline_rank)
    sampled = [*others, *([] if copy else [shard])]  # a judge is one of the others
    fp8_copies = [fp8_of_copy, *(_fp8_copy(run, demand, one) for one in sampled)]
    return RankMemory(
        pipeline_rank=shard.pipeline_rank,
        parameters=shard.parameter_bytes + copies,
        gradients=shard.gradient_bytes if trains else 0,
        optimizer=optimizer if trains else 0,
        reference=_weights(run, shard) if demand.reference else 0,
        # a reward model has one output in the place of the vocabulary: this counts the head that it lacks
        other_models=sum(_weights(run, other) for other in others),
        largest_other=max((_weights(run, other) for other in others), default=0.0),
        other=shard.other_bytes,
        rollout_model=copy,
        fp8_copy=max(fp8_copies),
        kv_cache=max(caches) if copy or not demand.outputs else caches[shard.pipeline_rank],
        activations=activations if trains else 0.0,
        logits=logits if trains or demand.scored_passes else 0.0,
        forward=forward,
        # a rollout puts the others away
        offload=frozenset(run.offload if demand.outputs else {"reward_models"} & set(run.offload)),
    )


def _activations(run: RunConfig, demand: Demand, pipeline_rank: int) -> tuple[float, float, float]:
    """Bytes kept for backward by all micro-batches in flight, of the logits of one, and of a bare forward."""
    layout, config = run.layout, run.model.transformer_config()
    width, engine = parameter_dtype(run.precision).itemsize, run.plan.hardware is not None
    tokens = demand.pack_tokens / layout.context / layout.tensor
    num_logits = tokens * run.model.shape().vocab_size
    at_once = num_logits if run.max_logits is None else min(num_logits, run.max_logits)
    each = kept(
        config,
        vocab_size=0 if at_once < num_logits else run.model.shape().vocab_size,
        dtype_bytes=width,
        recompute=run.recompute,
        engine=engine,
        context=layout.context,
    )
    dense, experts, last = _layers(layout, run.model.shape(), pipeline_rank)
    bytes_a_token = dense * each.dense + experts * each.experts
    if last and demand.mtp:
        bytes_a_token += each.mtp * run.model.shape().num_mtp_layers
    working = working_layer(config, dtype_bytes=width, engine=engine) * tokens
    in_flight = _in_flight(layout, demand, pipeline_rank)
    # the softmax that backward needs, its gradient, and the logits in the model's own format
    logits = at_once * (2 * FP32 + width) if last else 0.0
    recomputed = working if run.recompute == "full" else 0.0
    return bytes_a_token * tokens * in_flight + recomputed, logits, working


def _layers(layout: Layout, shape: ModelShape, pipeline_rank: int) -> tuple[int, int, bool]:
    """Layers without and with experts on a pipeline rank, and whether it has the head."""
    first_experts = shape.num_dense_layers if shape.num_experts else shape.num_layers
    dense = layers = before = 0
    last = False
    for index, chunk in enumerate(split_layers(layout, shape)):
        count = chunk.count("t")
        if index % layout.pipeline == pipeline_rank:
            layers, last = layers + count, last or "L" in chunk
            dense += min(max(first_experts - before, 0), count)
        before += count
    return dense, layers - dense, last


def _in_flight(layout: Layout, demand: Demand, pipeline_rank: int) -> float:
    """Micro-batches whose activations a stage holds at once (1F1B; interleaved, Megatron-LM 2104.04473)."""
    tokens = demand.trained_tokens / max(demand.updates, 1) / layout.data  # of an update and replica
    packs = max(1.0, tokens / max(demand.pack_tokens, 1))
    if layout.virtual_pipeline == 1:
        return min(packs, layout.pipeline - pipeline_rank)
    chunks = layout.virtual_pipeline
    warm = 2 * (layout.pipeline - pipeline_rank - 1) + (chunks - 1) * layout.pipeline + 1
    return min(packs, warm / chunks)


def kv_cache(run: RunConfig, demand: Demand) -> list[float]:
    """rollout.max_concurrent of a replica's outputs at their full length, as
    backend/rollout/batch_scheduler.py allocates them; by pipeline rank of the layout that samples."""
    layout, config = run.sampling_layout, run.model.transformer_config()
    if not demand.outputs:
        return [0.0] * layout.pipeline
    if config.get("multi_latent_attention") and run.rollout.engine == "modules":  # keys and values
        widths = config["qk_head_dim"] + config["qk_pos_emb_head_dim"] + config["v_head_dim"]
        numbers = config["num_attention_heads"] // layout.tensor * widths
    elif config.get("multi_latent_attention"):
        numbers = config["kv_lora_rank"] + config["qk_pos_emb_head_dim"]  # on every tensor rank
    else:
        numbers = 2 * max(1, config["num_query_groups"] // layout.tensor) * config["kv_channels"]
    outputs = demand.outputs * (1 + demand.max_off_policy_steps)
    rows = min(-(-outputs // layout.data), run.rollout.max_concurrent or outputs)
    length = run.plan.prompt_tokens + demand.output_tokens
    a_layer = rows * length * numbers * parameter_dtype(run.precision).itemsize
    drafts = bool(run.rollout.speculation and run.model.shape().num_mtp_layers)  # by the first MTP layer
    layers = (_layers(layout, run.model.shape(), rank) for rank in range(layout.pipeline))
    return [a_layer * (dense + experts + (last and drafts)) for dense, experts, last in layers]
