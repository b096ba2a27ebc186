"""MegatronPolicy: types.Policy on Megatron-Core."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from megatron_r1.backend.checkpoint import save_load
from megatron_r1.backend.checkpoint.load_hf import load_directory
from megatron_r1.backend.model import reward_head as heads
from megatron_r1.backend.model import router, routing_replay
from megatron_r1.backend.model.build import ModelOptions, build_model
from megatron_r1.backend.model.init_weights import set_initial_weights
from megatron_r1.backend.model.precision import pack_multiple
from megatron_r1.backend.parallel.process_groups import MegatronReplicas, device
from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.backend.rollout.decoder import expert_weights
from megatron_r1.backend.rollout.engine import RolloutOptions
from megatron_r1.backend.rollout.resharded_model import ReshardedModel
from megatron_r1.backend.train.context_padding import pad_for_context
from megatron_r1.backend.train.cpu_offload import HostCopy, OffloadedOptimizer
from megatron_r1.backend.train.expert_load import ExpertLoad
from megatron_r1.backend.train.forward import ForwardOptions
from megatron_r1.backend.train.nan_check import require_finite_gradient, require_finite_loss
from megatron_r1.backend.train.optimizer import (
    build_optimizer,
    finish_parameter_gather,
    unwrap,
    wrap_for_training,
)
from megatron_r1.backend.train.pipeline_schedule import Sums, pack_logprobs, train_on_packs
from megatron_r1.backend.train.reference import ReferenceWeights
from megatron_r1.config.layout import Layout
from megatron_r1.data.packing import Packing, pack, pad_packs
from megatron_r1.errors import DataError
from megatron_r1.huggingface.provenance import files_to_carry
from megatron_r1.huggingface.source import Source
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.runtime.step_profile import phase
from megatron_r1.types import (
    Begun,
    LossFunction,
    Nucleus,
    OnEnd,
    OptimizerOptions,
    PackedBatch,
    Refits,
    Sampled,
    Sampling,
    StepStats,
    TrainSequence,
)


class MegatronPolicy:
    """types.Policy: one model in one layout, its reference, its optimizer."""

    def __init__(
        self,
        family: FamilyConfig,
        layout: Layout,
        options: ModelOptions,
        *,
        seed: int,
        eos_ids: Sequence[int],
        tokens_per_pack: int,
        rollout_layout: Layout | None = None,
        rollout_options: RolloutOptions | None = None,
        score_head: bool = False,
        offload: Collection[str] = (),
    ) -> None:
        """eos_ids: each of them ends a completion; training teaches the first. tokens_per_pack: the most
        tokens of a micro-batch on a rank. rollout_layout: of the rollout; None: `layout`. score_head: for a
        MegatronScorer. offload: which of "optimizer", "reference" and "reward_models" are offloaded to CPU
        between their phases; without a GPU none is.

        Raises ConfigError where the model or layout doesn't support the rollout_options."""
        self.score_head, self.language_family = score_head, family
        if score_head:
            family = heads.without_language_head(family)
        self.family, self.layout, self.options = family, layout, options
        self.eos_ids, self.tokens_per_pack = tuple(eos_ids), tokens_per_pack
        self.rollout_layout = layout if rollout_layout is None else rollout_layout
        self.rollout_options = rollout_options or RolloutOptions()
        self.version = 0
        self.resharded: ReshardedModel | None = None  # built at the first rollout in another layout
        self.synced = False  # whether the resharded model has the current weights
        self.refits = Refits()
        self.replicas = MegatronReplicas()
        self.chunks = build_model(family, layout, options)
        expert_weights.lay_out(self.chunks)
        if score_head:
            heads.attach(self.chunks)
        router.attach(self.chunks)
        routing_replay.attach(self.chunks)
        if not score_head:
            rollout.require(self.rollout_options, family, self.rollout_layout, self.chunks)
        set_initial_weights(self.chunks, seed=seed, vocab_size=family.shape().vocab_size)
        self.models: Sequence[torch.nn.Module] = self.chunks  # with DDP around them once training starts
        self.optimizer: Any = None
        self.offloaded: OffloadedOptimizer | None = None
        self.offload = frozenset(offload) if device().type == "cuda" else frozenset()
        self.reference: ReferenceWeights | None = None
        self.offloaded_weights: HostCopy | None = None  # of a frozen model
        # on rank 0: files that came with Hugging Face's weights, kept in checkpoints
        # (huggingface/provenance.py)
        self.carried: dict[str, bytes] = {}

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int],
        begun: Sequence[Begun] | None = None,
        on_end: OnEnd | None = None,
    ) -> list[Sampled]:
        assert not self.score_head, "a reward model can't generate"
        if sampling.keep_routes:
            routing_replay.require_replay(self.chunks[0].config)
        longest = max(map(len, prompts), default=0)
        self._require_positions(longest + sampling.max_new_tokens, "a prompt and max_new_tokens")
        finish_parameter_gather(self.models)
        self._offload_training_state()
        how: Any = {"eos_ids": self.eos_ids, "options": self.rollout_options, "begun": begun}
        if self.rollout_layout.places_like(self.layout):
            with phase("rollout"), self._weights_on_device():
                return rollout.generate(self.chunks, prompts, sampling, keys=keys, on_end=on_end, **how)
        with phase("refit"), self._weights_on_device():
            resharded = self._synced_resharded()
        with phase("rollout"):
            return resharded.generate(prompts, sampling, keys=keys, of=self.replicas, **how)

    def _synced_resharded(self) -> ReshardedModel:
        """The resharded model, after a weight sync if its weights are stale."""
        if self.resharded is None:
            self.resharded = ReshardedModel(
                self.family, self.rollout_layout, self.options, trained=self.chunks
            )
        if not self.synced:
            self.refits += self.resharded.refitter.refit()
            self.synced = True
        return self.resharded

    def logprobs(
        self, sequences: Sequence[TrainSequence], *, reference: bool = False, temperature: float = 1.0
    ) -> list[Tensor]:
        if reference:  # the reference uses its own routes
            sequences = [replace(sequence, routes=None) for sequence in sequences]
        packing = self._pack(sequences)
        if not packing.batches:  # then on all data-parallel ranks
            return []
        options = self._forward_options(temperature=temperature)
        if reference:
            assert self.reference is not None, "no reference was kept"
            with phase("reference"), self.reference.swapped_in():
                values = pack_logprobs(self.models, packing.batches, options=options)
            if "reference" in self.offload:
                self.reference.offload()
        else:
            with phase("log-probs"), self._weights_on_device():
                values = pack_logprobs(self.models, packing.batches, options=options)
        found = packing.unpack([value.cpu() for value in values])
        return [value[: len(s.token_ids)] for value, s in zip(found, sequences, strict=True)]

    def _forward_options(self, **of_this_pass: Any) -> ForwardOptions:
        kept = {"max_logits": self.options.max_logits, "prompt_logits": self.options.prompt_logits}
        return ForwardOptions(**of_this_pass, **kept)  # type: ignore[arg-type]

    def refresh_reference(self) -> None:
        finish_parameter_gather(self.models)
        if self.reference is None:
            self.reference = ReferenceWeights(self.chunks)
        else:
            self.reference.refresh()

    def start_training(self, options: OptimizerOptions) -> None:
        self.models = wrap_for_training(self.chunks, self.layout)
        self.optimizer = build_optimizer(self.models, self.layout, options)  # type: ignore[arg-type]
        self.expert_load = ExpertLoad(self.chunks)
        self.offloaded = None
        if "optimizer" in self.offload:
            self.offloaded = OffloadedOptimizer(self.models, self.optimizer)  # type: ignore[arg-type]

    def _offload_training_state(self) -> None:
        """Offload the optimizer and the reference, if asked; they are reloaded where they are used."""
        if self.offloaded is not None:
            self.offloaded.offload()
        if self.reference is not None and "reference" in self.offload:
            self.reference.offload()

    def offload_weights(self) -> None:
        """Keep this frozen model's weights in CPU memory between calls, if `offload` has reward_models. The
        model can't be trained, loaded or saved any more."""
        if "reward_models" in self.offload:
            assert self.optimizer is None, "training changes the weights"
            self.offloaded_weights = HostCopy(
                lambda: (t for c in self.chunks for t in (*c.parameters(), *c.buffers()))
            )
            self.offloaded_weights.offload()

    def _weights_on_device(self) -> AbstractContextManager[None]:
        """Within: the weights are on the device."""
        return nullcontext() if self.offloaded_weights is None else self.offloaded_weights.on_device()

    @contextmanager
    def training_state_on_device(self) -> Iterator[None]:
        """Within: the optimizer and the reference are on the device."""
        if self.offloaded is not None:
            self.offloaded.reload()
            self.offloaded.wait()
        with nullcontext() if self.reference is None else self.reference.host.on_device():
            yield

    def train_step(
        self,
        sequences: Sequence[TrainSequence],
        loss: LossFunction,
        *,
        lr: float,
        temperature: float = 1.0,
        entropy: bool = False,
        mtp: bool = False,
    ) -> StepStats:
        packs = self._pack(sequences).batches
        num_tokens = int(self.replicas.sum({"tokens": sum(p.num_tokens for p in packs)})["tokens"])
        if self.offloaded is not None:
            self.offloaded.reload()  # overlaps with the forward and backward passes
        for model in self.models:
            model.zero_grad_buffer()  # type: ignore[operator]
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        options = self._forward_options(temperature=temperature, entropy=entropy, mtp=mtp)
        with phase("forward and backward"):
            sums = train_on_packs(self.models, packs, loss, options=options, scale=float(num_tokens))
        metrics = self._means(sums)
        mean_loss, update = metrics.pop("loss"), self.version + 1
        require_finite_loss(self.chunks, update=update, loss=mean_loss, own_loss=float(sums["loss"][0]))
        self.synced = False
        if self.offloaded is not None:
            self.offloaded.wait()
        with phase("optimizer"):
            _, grad_norm, _ = self.optimizer.step()
        grad_norm = float(grad_norm or 0.0)
        require_finite_gradient(self.chunks, update=update, norm=grad_norm)
        self.version = update
        if self.expert_load.counted:
            metrics["expert_load"] = self.expert_load.measure()
        return StepStats(loss=mean_loss, grad_norm=grad_norm, metrics=metrics, num_tokens=num_tokens)

    def close(self) -> None:
        """Call it before dropping the policy, or its memory isn't freed."""
        unwrap(self.models)

    def save(self, directory: Path, state: Mapping[str, Any]) -> None:
        save_load.save(directory, self, state)

    def load(self, directory: Path, *, weights_only: bool = False, checked: bool = False) -> dict[str, Any]:
        assert self.offloaded_weights is None, "the host copy would keep the old weights"
        self.synced = False
        return save_load.load(directory, self, weights_only=weights_only, checked=checked)

    def load_hugging_face(self, directory: Path) -> list[str]:
        """Load weights from Hugging Face's files; each rank reads its slices. Returns warnings.
        Collective."""
        self.synced = False
        found = load_directory(self.chunks, directory, self.language_family, score_head=self.score_head)
        if self.optimizer is not None:
            with self.training_state_on_device():
                self.optimizer.reload_model_params()  # the fp32 masters
        if self.replicas.is_main:
            self.carried = files_to_carry(Source(directory), self.family)
        return found

    def _means(self, sums: Sums) -> dict[str, float]:
        """Sums over packs -> means over all data-parallel ranks. A count of 0 marks a sum that the token
        weights have already normalised."""
        flat = {}
        for name, pair in sums.items():
            flat[f"{name}/sum"], flat[f"{name}/count"] = pair.tolist()
        total = self.replicas.sum(flat)
        return {name: total[f"{name}/sum"] / (total[f"{name}/count"] or 1.0) for name in sums}

    def _pack(self, sequences: Sequence[TrainSequence]) -> Packing:
        """Packs on this rank's device; every data-parallel rank has as many, since experts are shared."""
        self._require_positions(max((len(s.token_ids) - 1 for s in sequences), default=0), "a sequence")
        self._require_rows(max((int(s.token_ids.max()) for s in sequences), default=0))
        padded = [pad_for_context(sequence, self.layout.context) for sequence in sequences]
        multiple = pack_multiple(self.layout, self.options.precision)
        packing = pack(padded, max_tokens=self.tokens_per_pack, multiple=multiple)
        count = self._agree_on_max(len(packing.batches))
        if self.layout.virtual_pipeline > 1:  # the interleaved schedule needs a multiple of the stages
            count = -(-count // self.layout.pipeline) * self.layout.pipeline
        batches = pad_packs(packing.batches, count, multiple=multiple)
        return Packing([_to_device(batch) for batch in batches], packing.places)

    def _require_positions(self, num_tokens: int, what: str) -> None:
        positions = self.family.max_position_embeddings
        if num_tokens > positions:
            raise DataError(
                f"{what}: {num_tokens} tokens, above model.max_position_embeddings = {positions}; "
                "leave out the longest, lower max_new_tokens, or raise it"
            )

    def _require_rows(self, token_id: int) -> None:
        rows = self.family.shape().vocab_size
        if token_id >= rows:  # of another model: on a GPU it would read beyond the embedding
            raise DataError(f"a sequence holds token {token_id}, above model.vocab_size = {rows}; raise it")

    def _agree_on_max(self, value: int) -> int:
        if self.replicas.count == 1:
            return value
        box = torch.tensor([value], device=device())
        dist.all_reduce(box, op=dist.ReduceOp.MAX, group=parallel_state.get_data_parallel_group())
        return int(box)


def _to_device(batch: PackedBatch) -> PackedBatch:
    where = device()
    if where.type == "cpu":
        return batch
    nucleus = batch.nucleus
    return PackedBatch(
        tokens=batch.tokens.to(where),
        labels=batch.labels.to(where),
        weights=batch.weights.to(where),
        positions=batch.positions.to(where),
        cu_seqlens=batch.cu_seqlens.to(where),
        loss_inputs=batch.loss_inputs.each(lambda values: values.to(where)),
        routes=None if batch.routes is None else batch.routes.to(where),
        nucleus=None if nucleus is None else Nucleus(nucleus.ids.to(where), nucleus.offsets.to(where)),
        padding=None if batch.padding is None else batch.padding.to(where),
    )
