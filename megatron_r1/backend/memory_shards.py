"""Memory shards: what each rank of a layout would hold, computed by the real model code without its memory.

One rank of every pipeline stage is built on the meta device in a fake process group, with DDP's buffers. The
ranks of a stage differ only in their shard of a distributed optimizer, which Megatron-Core 0.19.2 cuts from
the buffers: each bucket into equal parts, one for each data-parallel rank (distrib_optimizer.py,
_build_model_gbuf_range).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_r1.backend.model.build import ModelOptions, build_model
from megatron_r1.backend.parallel import process_groups
from megatron_r1.backend.rollout.fp8 import fp8_bytes, rounded_weights
from megatron_r1.backend.train.optimizer import wrap_for_training
from megatron_r1.config.layout import Layout, split_layers
from megatron_r1.models.shape import FamilyConfig

META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank of a pipeline stage.

    parameters: elements that it holds; mtp_parameters: of these, in MTP layers; expert_parameters: in
    experts.

    whole, whole_mtp: elements of the whole model that all ranks of the stage hold together, each counted
    once, with router biases and without copies of the embedding.

    parameter_bytes, gradient_bytes: of DDP's buffers with their padding. other_bytes: of what isn't trained
    (router biases, rotary frequencies).

    rounded: elements that an FP8 rollout rounds, without MTP's; fp8_bytes, mtp_fp8_bytes: of the rounded
    copies and their scales, and of the first MTP layer's.

    optimizer_dense, optimizer_expert: by data-parallel rank, the trained elements whose optimizer state it
    keeps, of all parameters but the experts' and of the experts'.
    """

    pipeline_rank: int
    parameters: int
    mtp_parameters: int
    expert_parameters: int
    whole: int
    whole_mtp: int
    parameter_bytes: int
    gradient_bytes: int
    other_bytes: int
    rounded: int
    fp8_bytes: int
    mtp_fp8_bytes: int
    optimizer_dense: tuple[int, ...]
    optimizer_expert: tuple[int, ...]

    @property
    def optimizer_elements(self) -> int:
        """The elements of the rank that keeps the most."""
        return max(self.optimizer_dense) + max(self.optimizer_expert)


def shards(family: FamilyConfig, layout: Layout, options: ModelOptions) -> list[Shard]:
    """One rank's shard of each pipeline stage. Needs a process without a process group.

    Stages with the same layers hold the same, so each kind of stage is built once.
    """
    ranks = layout.ranks // layout.pipeline  # of a stage
    built: dict[tuple[str, ...], Shard] = {}
    found = []
    for stage, kind in enumerate(_kinds(family, layout)):
        if kind not in built:
            built[kind] = _shard(family, layout, options, stage, rank=stage * ranks)
        found.append(replace(built[kind], pipeline_rank=stage))
    return found


def _kinds(family: FamilyConfig, layout: Layout) -> list[tuple[str, ...]]:
    """Each pipeline stage's chunks as strings, a letter for each layer; d: a dense layer."""
    shape = family.shape()
    dense = shape.num_dense_layers if shape.num_experts else shape.num_layers
    chunks = []
    for chunk in split_layers(layout, shape):
        first = min(dense, chunk.count("t"))
        dense -= first
        chunks.append(chunk.replace("t", "d", first))
    return [tuple(chunks[stage :: layout.pipeline]) for stage in range(layout.pipeline)]


def _shard(family: FamilyConfig, layout: Layout, options: ModelOptions, stage: int, *, rank: int) -> Shard:
    with _fake_ranks(layout, rank):
        chunks = build_model(family, layout, options)
        own = [_count(chunk, layout, first_stage=stage == 0) for chunk in chunks]
        other = sum(_bytes(buffer) for chunk in chunks for buffer in chunk.buffers())
        of_model, of_mtp = _rounded(chunks)
        models = wrap_for_training(chunks, layout)
        dense = [buffer for model in models for buffer in model.buffers]
        expert = [buffer for model in models for buffer in model.expert_parallel_buffers]
        return Shard(
            stage,
            *(sum(counts) for counts in zip(*own, strict=True)),
            parameter_bytes=_parameter_bytes(models, [*dense, *expert]),
            gradient_bytes=sum(_bytes(buffer.grad_data) for buffer in [*dense, *expert]),
            other_bytes=other,
            rounded=sum(weight.numel() for weight in of_model),
            fp8_bytes=sum(map(fp8_bytes, of_model)),
            mtp_fp8_bytes=sum(map(fp8_bytes, of_mtp)),
            optimizer_dense=_optimizer_elements(dense, layout, replicas=layout.data * layout.context),
            optimizer_expert=_optimizer_elements(expert, layout, replicas=layout.expert_data),
        )


@contextmanager
def _fake_ranks(layout: Layout, rank: int) -> Iterator[None]:
    """Within: this process is `rank` of the layout, and tensors have shapes but no memory."""
    assert not dist.is_initialized(), "a plan needs a process without a process group"
    dist.init_process_group("fake", rank=rank, world_size=layout.ranks, store=FakeStore())
    try:
        process_groups.build_groups(layout, gloo=False)
        on_meta = mock.patch.object(torch.cuda, "current_device", return_value=META)
        with on_meta, torch.device(META), process_groups.pretend(META):
            yield
    finally:
        process_groups.stop()


def _count(chunk: GPTModel, layout: Layout, *, first_stage: bool) -> tuple[int, int, int, int, int]:
    """parameters, mtp_parameters, expert_parameters, whole, whole_mtp of one chunk."""
    held = mtp = expert = whole = whole_mtp = 0
    tied = chunk.share_embeddings_and_output_weights
    for name, parameter in chunk.named_parameters():
        size, in_mtp, routed = parameter.numel(), name.startswith("mtp."), ".experts." in name
        copies = layout.expert * layout.expert_tensor if routed else _tensor_parts(parameter, layout)
        again = name.startswith("embedding.") and not first_stage  # MTP's copy, or that of tied weights
        again = again or (tied and name.startswith("output_layer.") and not first_stage)
        held, mtp, expert = held + size, mtp + size * in_mtp, expert + size * routed
        whole += 0 if again or in_mtp else size * copies
        whole_mtp += size * copies * in_mtp
    for name, buffer in chunk.named_buffers():
        if name.endswith("expert_bias"):  # the same on every rank; part of the published weights
            whole += 0 if name.startswith("mtp.") else buffer.numel()
            whole_mtp += buffer.numel() if name.startswith("mtp.") else 0
    return held, mtp, expert, whole, whole_mtp


def _rounded(chunks: Sequence[GPTModel]) -> tuple[list[Tensor], list[Tensor]]:
    """The weights that an FP8 rollout rounds: of the model's layers, and of the MTP layer that drafts."""
    named = [pair for chunk in chunks for pair in rounded_weights(chunk)]
    of_mtp = [weight for name, weight in named if name.startswith("mtp.")]
    return [weight for name, weight in named if not name.startswith("mtp.")], of_mtp


def _tensor_parts(parameter: Tensor, layout: Layout) -> int:
    """The number of tensor ranks that the parameter is sharded over."""
    cut: bool = getattr(parameter, "tensor_model_parallel", False)  # Megatron marks only some of them
    return layout.tensor if cut else 1


def _parameter_bytes(models: Sequence[DistributedDataParallel], buffers: Sequence[Any]) -> int:
    """Bytes of the parameters; a distributed optimizer keeps them in DDP's buffers, with padding."""
    if buffers and buffers[0].param_data is not None:
        return sum(_bytes(buffer.param_data) for buffer in buffers)
    return sum(_bytes(parameter) for model in models for parameter in model.parameters())


def _optimizer_elements(buffers: Sequence[Any], layout: Layout, *, replicas: int) -> tuple[int, ...]:
    """By data-parallel rank, the elements whose optimizer state it keeps."""
    if not layout.distributed_optimizer:
        return (sum(p.numel() for buffer in buffers for p in buffer.params),) * replicas
    found = [0] * replicas
    for buffer in buffers:
        for bucket in buffer.buckets:
            part = bucket.grad_data.numel() // replicas
            for parameter in bucket.params_list:
                start, end, _ = buffer.param_index_map[parameter]
                _share_out(found, start - bucket.offset, end - bucket.offset, part)
    return tuple(found)


def _share_out(found: list[int], start: int, end: int, part: int) -> None:
    """Add the elements [start, end) of a bucket to the ranks that hold them, `part` elements each."""
    for replica in range(start // part, -(-end // part)):
        found[replica] += min(end, (replica + 1) * part) - max(start, replica * part)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
