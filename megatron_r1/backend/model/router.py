"""Router for packed sequences: the balance loss is per sequence, and padding tokens aren't counted.

DeepSeek-V3's balance loss is defined on a sequence (arXiv 2412.19437, eq. 17-20). Megatron computes it on a
row of the batch, and a pack is one row of many sequences: training would depend on which sequences share a
pack. Padding tokens would also move the router's bias and the reported load; Megatron's padding mask works
for the loss but fails for the bias (router.py:738 combines [T, E] with [T]).
"""

# T tokens of a pack, R of this tensor and context rank, N sequences, E experts, k experts a token

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

from megatron_r1.backend.model.attention import Counting, Pack
from megatron_r1.types import PackedBatch


class PackRouter(TopKRouter):
    """TopKRouter that knows the pack its layer works on; without a pack it behaves as Megatron's."""

    pack: Pack | None = None

    def before_layer(self, layer: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the layer; runs in recomputed forwards too."""
        pack = kwargs.get("packed_seq_params")
        self.pack = pack if isinstance(pack, Pack) else None

    def after_layer(self, *call: Any) -> None:
        """Forget the pack: the built-in decoder calls the router without running the layer."""
        self.pack = None

    @property
    def counting(self) -> Counting | None:
        return None if self.pack is None else self.pack.counting

    def routing(self, logits: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask = padding_mask if self.counting is None else self.counting.padding
        return super().routing(logits, mask)

    def _apply_expert_bias(self, routing_map: Tensor, padding_mask: Tensor | None = None) -> None:
        if padding_mask is not None:
            routing_map = routing_map & ~padding_mask[:, None]
        super()._apply_expert_bias(routing_map)

    def _apply_seq_aux_loss(
        self,
        probs: Tensor,
        scores_for_aux_loss: Tensor,
        routing_map: Tensor,
        seq_length: int,
        bsz: int,
        with_padding_mask: bool = False,
    ) -> Tensor:
        """probs, scores, routing_map: [R, E], 0 for padding. Returns probs with the loss attached."""
        coefficient = self.get_aux_loss_coeff("seq_aux_loss")
        counting = self.counting
        if coefficient == 0 or counting is None:
            return super()._apply_seq_aux_loss(
                probs, scores_for_aux_loss, routing_map, seq_length, bsz, with_padding_mask
            )
        group = self.tp_cp_group
        total = sequence_balance(scores_for_aux_loss, routing_map, counting, top_k=self.topk, group=group)
        num_tokens = counting.lengths.sum().clamp(min=1)
        return self.attach_and_log_load_balancing_loss(
            probs,
            coefficient,
            coefficient * total / num_tokens,
            "seq_load_balancing_loss",
            group,
            valid_token_count=num_tokens / group.size(),
        )


def sequence_balance(
    scores: Tensor, routing_map: Tensor, counting: Counting, *, top_k: int, group: Any
) -> Tensor:
    """[]: this rank's part of the sum over sequences of T_s * sum_i f_i P_i  (DeepSeek-V3, eq. 17-20).

    scores: [R, E], summing to 1 for each token. routing_map: [R, E] bool. Sequences are weighted by their
    length, so the mean over a batch doesn't depend on the packing. f is of all ranks of the sequence, P of
    this one; the sum over the ranks is the loss (as Megatron does it, moe_utils.py:82).
    """
    num_experts, lengths = scores.shape[1], counting.lengths.clamp(min=1)[:, None]
    zeros = scores.new_zeros(len(lengths), num_experts)
    chosen = zeros.index_add(0, counting.owners, routing_map.to(zeros.dtype))  # [N, E] tokens
    if group.size() > 1:
        dist.all_reduce(chosen, group=group)
    share = chosen * (num_experts / top_k) / lengths  # f
    return (share * zeros.index_add(0, counting.owners, scores)).sum()  # the sum of scores is T_s * P


def attach(chunks: Sequence[GPTModel]) -> None:
    """Add the hooks that give every router the pack of its layer."""
    for layer in _layers_with_experts(chunks):
        router = layer.mlp.router
        layer.register_forward_pre_hook(router.before_layer, with_kwargs=True)
        layer.register_forward_hook(router.after_layer, always_call=True)


def show_pack(chunk: GPTModel, pack: Pack) -> None:
    """Set the routers' pack until the next call: hooks don't run where a schedule runs layers in pieces."""
    for layer in _layers_with_experts([chunk]):
        layer.mlp.router.pack = pack


def _layers_with_experts(chunks: Sequence[GPTModel]) -> Iterator[Any]:
    """MoE layers of the decoder and of MTP."""
    for chunk in chunks:
        depths = [depth.mtp_model_layer for depth in chunk.mtp.layers] if chunk.mtp_process else []
        yield from (layer for layer in [*chunk.decoder.layers, *depths] if layer.is_moe_layer)


def counting_of(batch: PackedBatch, local: Tensor | None, config: TransformerConfig) -> Counting:
    """local: [T / cp], the tokens of this context rank; None: all."""
    sizes = batch.cu_seqlens.diff().long()  # [N]
    owners = torch.arange(len(sizes), device=sizes.device).repeat_interleave(
        sizes, output_size=len(batch.tokens)
    )
    lengths = sizes.float()
    if batch.padding is not None:
        lengths = lengths.index_add(0, owners, -batch.padding.float())
    return Counting(
        owners=shard(owners, local, config),
        padding=None if batch.padding is None else shard(batch.padding, local, config),
        lengths=lengths,
    )


def shard(values: Tensor, local: Tensor | None, config: TransformerConfig) -> Tensor:
    """[T, ...] -> [R, ...]: this context rank's tokens, cut again by sequence parallelism."""
    mine = values if local is None else values[local]
    if not config.sequence_parallel:
        return mine
    return mine.chunk(config.tensor_model_parallel_size)[parallel_state.get_tensor_model_parallel_rank()]
