"""Attention for the local spec: packed sequences, MLA, context parallelism and KV caches on torch's SDPA.

The stock DotProductAttention of megatron-core 0.19.2 takes none of these. Packed sequences keep pads out of
the experts and of every matrix product; only here, and only for the softmax, they are laid out in rows of
similar length. Positions come from the pack, so that RoPE is one elementwise product instead of upstream's
loop over the sequences (rope_utils.py, _apply_rotary_pos_emb_thd).
"""

# T tokens of a pack (of this context rank: T / cp), n heads, d query/key width, v value width
# B rows of S tokens: the padded layout of one bucket

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.models.common.embeddings import apply_rotary_pos_emb
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from torch import Tensor, nn

# A row of a bucket is padded to its longest; a new bucket starts below this share of the longest.
BUCKET_SHARE = 0.6
BUCKET_MIN_TOKENS = 256  # below this a bucket costs more in dispatch than its padding


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sequences of similar length: where their tokens lie, padded to rows. index: [B, S] into the pack."""

    index: Tensor


@dataclass
class Pack(PackedSeqParams):
    """What attention knows of a pack. Built once a micro-batch by `describe_pack`.

    positions: [T / cp] of this rank's tokens. max_position: of all. buckets cover the whole pack;
    order: [T] place of each token of the pack in the buckets' concatenated rows; local: [T / cp] the
    tokens of this context rank (None without context parallelism).
    """

    positions: Tensor | None = None
    max_position: int = 0
    buckets: list[Bucket] = field(default_factory=list)
    order: Tensor | None = None
    local: Tensor | None = None
    gathered_order: Tensor | None = None  # [T] place of each token in the ranks' concatenated shards


def describe_pack(cu_seqlens: Tensor, *, cp_rank: int = 0, cp_size: int = 1, qkv_format: str = "packed") -> Pack:
    """cu_seqlens: [N + 1] int32 offsets of the whole pack; with context parallelism every length must be a
    multiple of 2 * cp_size, and a rank holds chunks r and 2 * cp_size - 1 - r of each sequence."""
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
    offsets = cu_seqlens[:-1].tolist()
    total = int(cu_seqlens[-1])
    positions = torch.cat([torch.arange(n) for n in lengths])
    buckets = _buckets(offsets, lengths)
    order = _order_of(buckets, lengths, offsets, total)
    local = gathered_order = None
    if cp_size > 1:
        shards = [_zigzag(offsets, lengths, rank, cp_size) for rank in range(cp_size)]
        local = shards[cp_rank]
        gathered_order = torch.empty(total, dtype=torch.long)
        gathered_order[torch.cat(shards)] = torch.arange(total)
        positions = positions[local]
    longest = max(lengths)
    device = cu_seqlens.device
    return Pack(
        qkv_format=qkv_format,
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        positions=positions.to(device),
        max_position=longest,
        buckets=[Bucket(bucket.index.to(device)) for bucket in buckets],
        order=order.to(device),
        local=None if local is None else local.to(device),
        gathered_order=None if gathered_order is None else gathered_order.to(device),
    )


def _buckets(offsets: list[int], lengths: list[int]) -> list[Bucket]:
    """Rows sorted by length, a new bucket where padding would waste more than it saves."""
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = [[]]
    for i in by_length:
        group = groups[-1]
        if group and lengths[i] < BUCKET_SHARE * lengths[group[0]] and len(group) * lengths[group[0]] > BUCKET_MIN_TOKENS:
            groups.append([])
        groups[-1].append(i)
    return [Bucket(_rows(group, offsets, lengths)) for group in groups]


def _rows(group: list[int], offsets: list[int], lengths: list[int]) -> Tensor:
    """[B, S] token indices; behind a sequence's end its first token is repeated (causal: nobody looks)."""
    width = max(lengths[i] for i in group)
    column = torch.arange(width)
    starts = torch.tensor([offsets[i] for i in group])[:, None]
    valid = column < torch.tensor([lengths[i] for i in group])[:, None]
    return starts + torch.where(valid, column, 0)


def _order_of(buckets: list[Bucket], lengths: list[int], offsets: list[int], total: int) -> Tensor:
    order = torch.empty(total, dtype=torch.long)
    end_of = torch.tensor(offsets) + torch.tensor(lengths)
    end_by_start = dict(zip(offsets, end_of.tolist(), strict=True))
    base = 0
    for bucket in buckets:
        rows, width = bucket.index.shape
        starts = bucket.index[:, 0]
        ends = torch.tensor([end_by_start[s] for s in starts.tolist()])
        column = torch.arange(width)
        valid = starts[:, None] + column < ends[:, None]
        place = base + torch.arange(rows * width).view(rows, width)
        order[bucket.index[valid]] = place[valid]
        base += rows * width
    return order


def _zigzag(offsets: list[int], lengths: list[int], rank: int, cp_size: int) -> Tensor:
    """[T / cp] tokens of one context rank: the r-th chunk from the front and from the back of each sequence."""
    shards = []
    for offset, length in zip(offsets, lengths, strict=True):
        chunks = (offset + torch.arange(length)).chunk(2 * cp_size)
        shards += [chunks[rank], chunks[2 * cp_size - 1 - rank]]
    return torch.cat(shards)


class _GatherTokens(torch.autograd.Function):
    """[T / cp, ...] of each context rank -> [T, ...] in the pack's order; backward sums and scatters."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, pack: Pack, group: dist.ProcessGroup) -> Tensor:
        ctx.pack, ctx.group = pack, group
        shards = [torch.empty_like(shard) for _ in range(group.size())]
        dist.all_gather(shards, shard.contiguous(), group=group)
        return torch.cat(shards)[pack.gathered_order]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0].contiguous()
        dist.all_reduce(grad, group=ctx.group)
        return grad[ctx.pack.local], None, None


class LocalCoreAttention(MegatronModule):
    """softmax(QK')V. Packs: query [T, (1,) n, d], out [T, 1, n * v]; caches: [S, B, n, d], out [S, B, n * v]."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        k_channels: int | None = None,
        v_channels: int | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(config=config)
        assert pg_collection is not None
        self.scale = softmax_scale
        self.cp_group = pg_collection.cp

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Pack | None = None,
    ) -> Tensor:
        if packed_seq_params is not None:
            return self._packed(query, key, value, packed_seq_params)
        return self._rows(query, key, value, attention_mask)

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, pack: Pack) -> Tensor:
        query, key, value = (x.flatten(0, 1) if x.dim() == 4 else x for x in (query, key, value))
        if pack.local is not None:
            query, key, value = (_GatherTokens.apply(x, pack, self.cp_group) for x in (query, key, value))
        outputs = []
        for bucket in pack.buckets:
            rows, width = bucket.index.shape
            flat = bucket.index.flatten()
            # [B, n, S, d]
            q, k, v = (x[flat].view(rows, width, *x.shape[1:]).transpose(1, 2) for x in (query, key, value))
            out = self._attend(q, k, v, mask=None, causal=True)
            outputs.append(out.transpose(1, 2).reshape(rows * width, -1))
        order = pack.order if pack.local is None else pack.order[pack.local]  # type: ignore[index]
        return torch.cat(outputs)[order][:, None]

    def _rows(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        causal = mask is None and q.shape[2] > 1
        assert not causal or q.shape[2] == k.shape[2], "a chunk behind a cache needs its mask"
        out = self._attend(q, k, v, mask=None if mask is None else ~mask, causal=causal)
        return out.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, causal: bool) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale, enable_gqa=grouped
        )


class PackRotary(nn.Module):
    """Megatron's rotary embedding, with the angles of a pack's own positions where a Pack is given.

    The module asks for the length first and passes the answer back: a Pack travels through in its place,
    so that a recomputed forward (backward pass, another micro-batch in flight) sees its own positions.
    """

    def __init__(self, rotary: nn.Module, *, token_dims: int) -> None:
        super().__init__()
        self.rotary = rotary
        self.token_dims = token_dims  # singleton dimensions between tokens and channels

    def get_rotary_seq_len(
        self, context: Any, transformer: Any, hidden: Any, config: Any, packed: PackedSeqParams | None
    ) -> Any:
        if isinstance(packed, Pack):
            return packed
        return self.rotary.get_rotary_seq_len(context, transformer, hidden, config, packed)  # type: ignore[operator]

    def forward(self, length: Any, **kwargs: Any) -> Any:
        if not isinstance(length, Pack):
            return self.rotary(length, **kwargs)
        # upstream caches tables by length: round up, or every pack adds one
        rounded = 1 << max(length.max_position - 1, 63).bit_length()
        table = self.rotary(rounded, packed_seq=True)
        if isinstance(table, tuple):  # YaRN: angles and the attention scale
            return self._pick(table[0], length), table[1]
        return self._pick(table, length)

    def _pick(self, table: Tensor, pack: Pack) -> Tensor:
        channels = table.shape[-1]
        return table.view(-1, channels)[pack.positions].view(-1, *[1] * self.token_dims, channels)


class LocalMLASelfAttention(MLASelfAttention):
    """MLA with packed RoPE, and with the gradient of k_pos_emb summed over tensor ranks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rotary_pos_emb = PackRotary(self.rotary_pos_emb, token_dims=1)

    def _qkv_down_projection(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Upstream gathers k_pos_emb after a column-parallel down projection and feeds it to every rank's
        heads; its gradient then holds this rank's heads only (multi_latent_attention.py:745). Doing the
        gather here, through the mappings whose backward sums, mends it."""
        q_compressed, kv = super()._qkv_down_projection(hidden_states)
        config = self.config
        if kv.size(-1) == config.kv_lora_rank + config.qk_pos_emb_head_dim:
            return q_compressed, kv
        kv = gather_from_tensor_model_parallel_region(kv)
        if config.sequence_parallel:
            return q_compressed, scatter_to_sequence_parallel_region(kv)
        latent, k_pos_emb = kv.split([config.kv_lora_rank, config.qk_pos_emb_head_dim], dim=-1)
        return q_compressed, torch.cat([latent, copy_to_tensor_model_parallel_region(k_pos_emb)], dim=-1)


class LocalSelfAttention(SelfAttention):
    """GQA whose cache holds keys after RoPE; upstream rotates the whole cache again for every token."""

    def _adjust_key_value_for_inference(
        self,
        inference_context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rotary_pos_emb: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if inference_context is None or rotary_pos_emb is None:
            return super()._adjust_key_value_for_inference(
                inference_context, query, key, value, rotary_pos_emb, *args, **kwargs
            )
        start = inference_context.sequence_len_offset
        angles = rotary_pos_emb[0][start : start + query.shape[0]]
        group = self.pg_collection.cp
        query = apply_rotary_pos_emb(query, angles, config=self.config, cp_group=group)
        key = apply_rotary_pos_emb(key, angles, config=self.config, cp_group=group)
        return super()._adjust_key_value_for_inference(inference_context, query, key, value, None, *args, **kwargs)
