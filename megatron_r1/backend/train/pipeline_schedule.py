"""Runs packs through Megatron's pipeline schedule, for training or for log-probs.

The token weights of the whole batch, over all ranks, already normalise the loss. Megatron divides the summed
gradient by a token count (calculate_per_token_loss), so the weights are multiplied by the same count here;
the MoE balance loss is then a mean over tokens.
"""

# T tokens of a pack; T / cp on a context rank

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe.moe_layer import MoELayer
from torch import Tensor

from megatron_r1.backend.model.attention import Pack, describe_pack
from megatron_r1.backend.train.forward import ForwardOptions, Output, forward, plan, unstacked
from megatron_r1.types import LossFunction, PackedBatch

Sums = dict[str, Tensor]  # name -> [2] (sum, count)


def run_packs(
    chunks: Sequence[torch.nn.Module],
    packs: Sequence[PackedBatch],
    collect: Callable[[PackedBatch, Output], Any],
    *,
    options: ForwardOptions,
    forward_only: bool,
) -> list[Any]:
    """`collect` on every pack's Output, on the last pipeline stage; [] on the others.

    In training, `collect` returns Megatron's triple (loss, num_tokens, report), and the reports are returned.
    """

    def forward_step(
        batches: Iterator[PackedBatch], model: Any, return_schedule_plan: bool = False
    ) -> tuple[Any, Callable[..., Any]]:
        batch = next(batches)
        run = plan if return_schedule_plan else forward
        output = run(model, batch, options)

        def finish(output: Output | Tensor, non_loss_data: bool = False) -> Any:
            return collect(batch, unstacked(output, model, options) if isinstance(output, Tensor) else output)

        return output, finish

    iterators = [iter(packs) for _ in chunks]
    return get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(chunks) > 1 else iterators[0],
        model=list(chunks) if len(chunks) > 1 else chunks[0],
        num_microbatches=len(packs),
        seq_length=packs[0].tokens.shape[0],
        micro_batch_size=1,
        forward_only=forward_only,
        collect_non_loss_data=forward_only,
    )


def pack_logprobs(
    chunks: Sequence[torch.nn.Module], packs: Sequence[PackedBatch], *, options: ForwardOptions
) -> list[Tensor]:
    """[T] log-probs of each pack's labels, on every rank of the data-parallel rank."""

    def collect(batch: PackedBatch, output: Output) -> Tensor:
        return whole_pack(output.logprobs, batch)

    with torch.no_grad():
        found = run_packs(chunks, packs, collect, options=options, forward_only=True)
    return _from_last_stage(found, packs)


def train_on_packs(
    chunks: Sequence[torch.nn.Module],
    packs: Sequence[PackedBatch],
    loss: LossFunction,
    *,
    options: ForwardOptions,
    scale: float,
) -> Sums:
    """Accumulate the gradients of all packs; returns metric sums over packs, on every pipeline rank.

    scale: the token count over all ranks, by which Megatron will divide.
    """

    def collect(batch: PackedBatch, output: Output) -> tuple[Tensor, Tensor, Sums]:
        logprobs = whole_pack(output.logprobs, batch)
        entropy = None if output.entropy is None else whole_pack(output.entropy, batch)
        per_token, metrics = loss(logprobs, entropy, batch)
        total = (per_token * batch.weights).sum()
        report = {**metrics, "loss": torch.stack([total.detach(), total.new_zeros(())])}
        if output.mtp_loss is not None:
            total = total + output.mtp_loss
            report["mtp_loss"] = torch.stack([_over_context(output.mtp_loss), total.new_zeros(())])
        return total * scale, _tokens_of_this_rank(batch), report

    reports = run_packs(chunks, packs, collect, options=options, forward_only=False)
    _forget_pack(chunks)
    sums = {}
    for report in reports:
        for name, pair in report.items():
            sums[name] = sums.get(name, 0) + pair.double()
    return _share_over_pipeline(sums)


def _forget_pack(chunks: Sequence[torch.nn.Module]) -> None:
    """Drop the last pack from dispatchers and routers. Megatron's dispatchers keep its probabilities and
    their graph, whose hooks hold model, gradients and optimizer in a cycle through C++ that is never
    collected. The routers would use the pack in the next rollout."""
    module: Any
    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, MoELayer):
                module.router.pack = None
                kept = vars(module.token_dispatcher)
                graphs = [n for n, v in kept.items() if isinstance(v, Tensor) and v.grad_fn is not None]
                kept.update(dict.fromkeys(graphs))


class _WholePack(torch.autograd.Function):
    """[T / cp] of each context rank -> [T]. Every rank computes the whole loss, so backward slices."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, pack: Pack) -> Tensor:
        ctx.pack = pack
        group = parallel_state.get_context_parallel_group()
        shards = [torch.empty_like(shard) for _ in range(group.size())]
        dist.all_gather(shards, shard.contiguous(), group=group)
        return torch.cat(shards)[pack.gathered]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][ctx.pack.local], None


def whole_pack(values: Tensor, batch: PackedBatch) -> Tensor:
    """[T / cp] -> [T]: gathers whole sequences, which sequence-level ratios need."""
    cp_size = parallel_state.get_context_parallel_world_size()
    if cp_size == 1:
        return values
    pack = describe_pack(
        batch.cu_seqlens, cp_rank=parallel_state.get_context_parallel_rank(), cp_size=cp_size
    )
    return _WholePack.apply(values, pack)


def _tokens_of_this_rank(batch: PackedBatch) -> Tensor:
    """Tokens that this context rank adds to the count, without padding, so that a pack counts once."""
    count = batch.num_tokens if parallel_state.get_context_parallel_rank() == 0 else 0
    return torch.tensor(count, dtype=torch.int, device=batch.tokens.device)


def _over_context(part: Tensor) -> Tensor:
    """The sum over the context ranks, without gradient."""
    whole = part.detach().clone()
    if parallel_state.get_context_parallel_world_size() > 1:
        dist.all_reduce(whole, group=parallel_state.get_context_parallel_group())
    return whole


def _from_last_stage(found: list[Tensor], packs: Sequence[PackedBatch]) -> list[Tensor]:
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return found
    values = found or [torch.empty(pack.tokens.shape[0], device=pack.tokens.device) for pack in packs]
    for value in values:
        dist.broadcast(
            value,
            parallel_state.get_pipeline_model_parallel_last_rank(),
            group=parallel_state.get_pipeline_model_parallel_group(),
        )
    return values


def _share_over_pipeline(sums: Sums) -> Sums:
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return sums
    # moved to the CPU: a CUDA tensor would be unpickled onto the sender's device
    box: list[Any] = [{name: pair.cpu() for name, pair in sums.items()}]
    dist.broadcast_object_list(
        box,
        parallel_state.get_pipeline_model_parallel_last_rank(),
        group=parallel_state.get_pipeline_model_parallel_group(),
    )
    return box[0]
