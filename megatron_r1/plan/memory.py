"""Memory of a rank by phase, for each pipeline rank of a stage.

Exact, as they come from the real model code: parameters, gradients, optimizer, buffers, the reference.
Estimated: activations (plan/activations.py), the KV cache, logits. `offload` moves its parts to host memory
outside their phase (backend/train/cpu_offload.py); everything else stays on the GPU. A rollout with a layout
of its own has a copy of the weights; otherwise it uses the training weights, and weight sync costs nothing.
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

MOMENTS = 8  # bytes: Adam's two moments in fp32
MASTER = 4  # bytes: the fp32 copy of a 16-bit weight
FP8_COPIES = 2  # bytes: Transformer Engine keeps a weight quantised by rows and by columns
FP32 = 4


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on a rank, by part; the properties are bytes too."""

    pipeline_rank: int
    parameters: float
    gradients: float
    optimizer: float
    reference: float
    other_models: float  # weights of reward models and judges
    largest_other: float  # the largest of these models
    other: float
    rollout_model: float  # weights in the rollout's layout
    fp8_copy: float  # the layers' weights in FP8, during a rollout in FP8
    kv_cache: float
    activations: float
    logits: float
    forward: float  # activations of a pass without gradients
    offload: frozenset[str]  # the parts of run.offload that this stage moves

    @property
    def update_only(self) -> float:
        """Offloaded except during updates."""
        return self.gradients + self.optimizer if "optimizer" in self.offload else 0.0

    @property
    def pass_only(self) -> float:
        """Offloaded except during the reference's pass."""
        return self.reference if "reference" in self.offload else 0.0

    @property
    def scoring_only(self) -> float:
        """Offloaded except while reward models and judges score."""
        return self.other_models if "reward_models" in self.offload else 0.0

    @property
    def host(self) -> float:
        """Pinned host memory. Offloaded gradients are dropped rather than kept."""
        return (self.optimizer if self.update_only else 0.0) + self.pass_only + self.scoring_only

    @property
    def moved(self) -> float:
        """Bytes between GPU and host per step: the optimizer both ways, frozen models only to the GPU."""
        return (2 * self.optimizer if self.update_only else 0.0) + self.pass_only + self.scoring_only

    @property
    def resident(self) -> float:
        """Memory in use in every phase, before offloading."""
        weights = self.parameters + self.gradients + self.optimizer + self.reference
        return weights + self.other_models + self.other + self.rollout_model

    def phases(self) -> dict[str, float]:
        """The peak memory of each phase."""
        resident = self.resident - self.scoring_only
        sampling = resident - self.update_only - self.pass_only
        found = {
            "rollout": sampling + self.fp8_copy + self.kv_cache,
            "log-probs": resident - self.update_only + self.forward + self.logits,
            "training": resident - self.pass_only + self.activations + self.logits,
            "checkpoint": resident,
            "refit": sampling,
        }
        if self.scoring_only:  # one model at a time; a judge generates, a reward model runs a forward pass
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
    """One for each pipeline rank, of the data-parallel rank with the largest share of the optimizer.

    others: the shards of each reward model and judge. sampling: the shards in the rollout's own layout, if it
    has one; every rank counts the largest of these.
    """
    copy = max((_weights(run, shard) for shard in sampling or []), default=0.0)
    fp8 = max((_fp8_copy(run, demand, shard) for shard in sampling or []), default=0.0)
    return [
        _one(run, demand, shard, [model[i] for model in others], copy, fp8) for i, shard in enumerate(shards)
    ]


def _fp8_copy(run: RunConfig, demand: Demand, shard: "Shard") -> float:
    """FP8 weights of a model during its rollout; only one model generates at a time."""
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
    """copy, fp8_of_copy: the weights in the rollout's own layout, 0 without one."""
    width = parameter_dtype(run.precision).itemsize
    trains = demand.updates > 0
    copies = FP8_COPIES * shard.parameters if run.precision not in ("fp32", "bf16") else 0
    optimizer = shard.optimizer_elements * (MOMENTS + (MASTER if width < FP32 else 0))
    caches = kv_cache(run, demand)
    activations, logits, forward = _activations(run, demand, shard.pipeline_rank)
    sampled = [*others, *([] if copy else [shard])]  # a judge among `others` generates too
    fp8_copies = [fp8_of_copy, *(_fp8_copy(run, demand, one) for one in sampled)]
    return RankMemory(
        pipeline_rank=shard.pipeline_rank,
        parameters=shard.parameter_bytes + copies,
        gradients=shard.gradient_bytes if trains else 0,
        optimizer=optimizer if trains else 0,
        reference=_weights(run, shard) if demand.reference else 0,
        # an overestimate for a reward model, which has one output instead of the vocabulary
        other_models=sum(_weights(run, other) for other in others),
        largest_other=max((_weights(run, other) for other in others), default=0.0),
        other=shard.other_bytes,
        rollout_model=copy,
        fp8_copy=max(fp8_copies),
        kv_cache=max(caches) if copy or not demand.outputs else caches[shard.pipeline_rank],
        activations=activations if trains else 0.0,
        logits=logits if trains or demand.scored_passes else 0.0,
        forward=forward,
        # only stages with rollouts offload the optimizer and the reference
        offload=frozenset(run.offload if demand.outputs else {"reward_models"} & set(run.offload)),
    )


def _activations(run: RunConfig, demand: Demand, pipeline_rank: int) -> tuple[float, float, float]:
    """Bytes of activations of all micro-batches in flight, of one's logits, and of a bare forward pass."""
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
    # the softmax that the backward pass needs, its gradient, and the logits in the model's precision
    logits = at_once * (2 * FP32 + width) if last else 0.0
    recomputed = working if run.recompute == "full" else 0.0
    return bytes_a_token * tokens * in_flight + recomputed, logits, working


def _layers(layout: Layout, shape: ModelShape, pipeline_rank: int) -> tuple[int, int, bool]:
    """(dense layers, layers with experts, whether it has the head) of a pipeline rank."""
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
    """Micro-batches whose activations a rank holds at once (1F1B; interleaved, Megatron-LM 2104.04473)."""
    tokens = demand.trained_tokens / max(demand.updates, 1) / layout.data  # per update and data-parallel rank
    packs = max(1.0, tokens / max(demand.pack_tokens, 1))
    if layout.virtual_pipeline == 1:
        return min(packs, layout.pipeline - pipeline_rank)
    chunks = layout.virtual_pipeline
    warm = 2 * (layout.pipeline - pipeline_rank - 1) + (chunks - 1) * layout.pipeline + 1
    return min(packs, warm / chunks)


def kv_cache(run: RunConfig, demand: Demand) -> list[float]:
    """Bytes of the KV cache, by pipeline rank of the rollout's layout.

    Each slot of a data-parallel rank's batch holds a completion of full length
    (backend/rollout/batch_scheduler.py).
    """
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
