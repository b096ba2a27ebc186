"""Attention for the local spec: packed sequences, MLA, context parallelism and KV caches on torch's SDPA.

The stock DotProductAttention of megatron-core 0.19.2 supports none of these. Packing keeps padding out of the
experts and of every matrix product; only the softmax here runs on padded rows, in buckets of similar length.
Positions come from the pack, so RoPE is one elementwise product instead of Megatron's loop over the sequences
(rope_utils.py, _apply_rotary_pos_emb_thd).
"""

# T tokens of a pack (of this context rank: T / cp), n heads, d query/key width, v value width
# B rows of S tokens: the padded layout of one bucket

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.models.common.embeddings import apply_rotary_pos_emb
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from torch import Tensor, nn

# The rows of a bucket are padded to its longest; a shorter sequence than this share of it starts a new
# bucket.
BUCKET_SHARE = 0.6
BUCKET_MIN_TOKENS = 256  # below this a bucket costs more in dispatch than its padding


@dataclass(frozen=True, slots=True)
class Counting:
    """The tokens that a router counts. R: the tokens of this tensor and context rank."""

    owners: Tensor  # [R] the index of each token's sequence
    padding: Tensor | None  # [R] bool; None: there is no padding
    lengths: Tensor  # [N] float, of the whole sequences without padding


@dataclass
class Pack(PackedSeqParams):
    """The layout of a pack for attention and routers. Built once a micro-batch by `describe_pack`.

    positions: [T / cp] of this rank's tokens. max_position: of all. rows: (B, S) of each bucket. row_tokens:
    [sum of B x S], the token at each index of the buckets; beyond a sequence's end its first one, which the
    causal mask hides. places: [T], the index of each token in the buckets. local: [T / cp], the tokens of
    this context rank, and gathered: [T], each token's index in the concatenated shards (None without context
    parallelism). routes: [tokens of this rank, moe_layers, top_k], experts to replay (routing_replay.py).
    counting: see router.py.
    """

    positions: Tensor | None = None
    max_position: int = 0
    rows: list[tuple[int, int]] = field(default_factory=list)
    row_tokens: Tensor | None = None
    places: Tensor | None = None
    local: Tensor | None = None
    gathered: Tensor | None = None
    routes: Tensor | None = None
    counting: Counting | None = None


def describe_pack(
    cu_seqlens: Tensor, *, cp_rank: int = 0, cp_size: int = 1, qkv_format: str = "packed"
) -> Pack:
    """cu_seqlens: [N + 1] int32 offsets of the whole pack. With context parallelism every length must be a
    multiple of 2 * cp_size; rank r holds chunks r and 2 * cp_size - 1 - r of each sequence."""
    offsets = cu_seqlens.tolist()
    lengths = [end - start for start, end in pairwise(offsets)]
    positions = torch.cat([torch.arange(n) for n in lengths])
    rows, row_tokens, places = _lay_out(offsets, lengths)
    local = gathered = None
    if cp_size > 1:
        shards = [_zigzag(offsets, lengths, rank, cp_size) for rank in range(cp_size)]
        local = shards[cp_rank]
        gathered = torch.cat(shards).argsort()
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
        rows=rows,
        row_tokens=row_tokens.to(device),
        places=places.to(device),
        local=None if local is None else local.to(device),
        gathered=None if gathered is None else gathered.to(device),
    )


def _lay_out(offsets: list[int], lengths: list[int]) -> tuple[list[tuple[int, int]], Tensor, Tensor]:
    """Buckets of sequences of similar length: (B, S) of each, then Pack.row_tokens and Pack.places."""
    rows, row_tokens, places = [], [], torch.empty(offsets[-1], dtype=torch.long)
    base = 0
    for bucket in _buckets(lengths):
        starts = torch.tensor([offsets[i] for i in bucket])[:, None]
        sizes = torch.tensor([lengths[i] for i in bucket])[:, None]
        column = torch.arange(int(sizes.max()))
        valid = column < sizes  # [B, S]
        tokens = starts + torch.where(valid, column, 0)
        place = base + torch.arange(tokens.numel()).view(tokens.shape)
        places[tokens[valid]] = place[valid]
        rows.append((tokens.shape[0], tokens.shape[1]))
        row_tokens.append(tokens.flatten())
        base += tokens.numel()
    return rows, torch.cat(row_tokens), places


def _buckets(lengths: list[int]) -> list[list[int]]:
    """Indices of sequences by length; a new bucket starts where padding would cost more than it saves."""
    buckets: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        bucket = buckets[-1]
        longest = lengths[bucket[0]] if bucket else 0
        if lengths[i] < BUCKET_SHARE * longest and len(bucket) * longest > BUCKET_MIN_TOKENS:
            buckets.append([])
        buckets[-1].append(i)
    return buckets


def _zigzag(offsets: list[int], lengths: list[int], rank: int, cp_size: int) -> Tensor:
    """[T / cp]: tokens of a context rank, the r-th chunk from the front and from the back of each
    sequence."""
    shards = []
    for offset, length in zip(offsets, lengths, strict=False):
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
        return torch.cat(shards)[pack.gathered]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0].contiguous()
        dist.all_reduce(grad, group=ctx.group)
        return grad[ctx.pack.local], None, None


class _ToRows(torch.autograd.Function):
    """[T, ...] -> [sum of B x S, ...]. Nothing attends to the padding, so it has no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, pack: Pack) -> Tensor:
        ctx.pack = pack
        return tokens.index_select(0, pack.row_tokens)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.pack.places), None


class _FromRows(torch.autograd.Function):
    """[sum of B x S, ...] -> [T, ...]: the padding's output is dropped; its gradient is 0."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, pack: Pack) -> Tensor:
        ctx.pack, ctx.shape = pack, rows.shape
        return rows.index_select(0, pack.places)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].new_zeros(ctx.shape).index_copy_(0, ctx.pack.places, grads[0]), None


class LocalCoreAttention(MegatronModule):
    """softmax(QK')V. Packs: [T, (1,) n, d] -> [T, 1, n * v]; cached rows: [S, B, n, d] -> [S, B, n * v]."""

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
        sizes = [num * width for num, width in pack.rows]
        parts = zip(*(_ToRows.apply(x, pack).split(sizes) for x in (query, key, value)), strict=True)
        outputs = []
        for (num, width), part in zip(pack.rows, parts, strict=True):
            q, k, v = (x.view(num, width, *x.shape[1:]).transpose(1, 2) for x in part)  # [B, n, S, d]
            out = self._attend(q, k, v, mask=None, causal=True)
            outputs.append(out.transpose(1, 2).reshape(num * width, -1))
        out = _FromRows.apply(torch.cat(outputs) if len(outputs) > 1 else outputs[0], pack)
        return (out if pack.local is None else out[pack.local])[:, None]

    def _rows(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        causal = mask is None and q.shape[2] > 1
        assert not causal or q.shape[2] == k.shape[2], "several queries after a cache need a mask"
        out = self._attend(q, k, v, mask=None if mask is None else ~mask, causal=causal)
        return out.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, causal: bool) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        width = v.shape[-1]
        # MLA's values are narrower than its keys; the fast kernels need equal widths
        v = F.pad(v, (0, q.shape[-1] - width)) if width < q.shape[-1] else v
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale, enable_gqa=grouped
        )
        return out[..., :width]


class PackRotary(nn.Module):
    """Megatron's rotary embedding; given a Pack, it returns the angles of the pack's positions.

    GPTModel asks for the length first and passes the answer back; the Pack is returned as that answer. So a
    recomputed forward sees its own positions, even with another micro-batch in between.
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
        # Megatron caches a table for each length: round up, or every pack adds one
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
        """Gather k_pos_emb through the mappings whose backward sums over tensor ranks. Megatron's own gather
        after a column-parallel down projection gives it the gradient of this rank's heads only
        (multi_latent_attention.py:745)."""
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
    """GQA whose cache holds keys after RoPE; Megatron rotates the whole cache again for every token."""

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
        dynamic = inference_context is not None and inference_context.is_dynamic_batching()
        if inference_context is None or dynamic or rotary_pos_emb is None:
            return super()._adjust_key_value_for_inference(
                inference_context, query, key, value, rotary_pos_emb, *args, **kwargs
            )
        start = inference_context.sequence_len_offset
        angles = rotary_pos_emb[0][start : start + query.shape[0]]
        group = self.pg_collection.cp
        query = apply_rotary_pos_emb(query, angles, config=self.config, cp_group=group)
        key = apply_rotary_pos_emb(key, angles, config=self.config, cp_group=group)
        return super()._adjust_key_value_for_inference(
            inference_context, query, key, value, None, *args, **kwargs
        )
