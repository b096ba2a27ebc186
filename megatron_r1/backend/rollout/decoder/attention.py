"""Attention with a KV cache for the built-in decoder: GQA, and MLA over its latents.

Prefill uses SDPA on right-padded prompts; the causal mask hides the padding. Decoding uses `baddbmm`: SDPA's
CPU kernels are six times slower at one query a sequence. While all sequences are at the same position, the
cache is written by a slice and no mask is needed.
"""

# B rows, W tokens fed a row (in the order [W, B]), S columns of the cache in use, h hidden
# n query heads, g key/value heads, r = n / g, d head width, c latent width, p rotated width

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region
from torch import Tensor

from megatron_r1.backend.model.attention import PackRotary
from megatron_r1.backend.rollout.decoder.linear import addition, product
from megatron_r1.backend.rollout.fp8 import RolloutPrecision


@dataclass(frozen=True, slots=True)
class Position:
    """Positions of the fed tokens in the KV cache, for all layers.

    columns: a slice of W columns for all rows, or [W, B], a column for each token. end: columns of the cache
    in use. max_tokens: the most tokens that a rank of the expert-parallel group feeds. mask: [B, W, end]
    (B is 1 where all rows are alike), added to the scores; None: every query sees all `end` columns.
    """

    columns: slice | Tensor
    end: int
    prompts: bool
    max_tokens: int
    mask: Tensor | None = None

    @classmethod
    def of_prompts(cls, width: int, *, max_tokens: int) -> "Position":
        return cls(slice(0, width), width, prompts=True, max_tokens=max_tokens)

    @classmethod
    def of_tokens(
        cls, positions: Sequence[int], *, width: int, max_tokens: int, device: torch.device
    ) -> "Position":
        """positions: [B], of the first of each row's `width` tokens."""
        first, end = positions[0], max(positions) + width
        alike = all(at == first for at in positions)
        if alike and width == 1:
            return cls(slice(first, end), end, prompts=False, max_tokens=max_tokens)
        starts = torch.tensor(positions[:1] if alike else positions, device=device)
        columns = starts + torch.arange(width, device=device)[:, None]
        behind = torch.arange(end, device=device) > columns.t()[..., None]
        mask = torch.zeros(behind.shape, device=device).masked_fill_(behind, -torch.inf)
        return cls(
            slice(first, end) if alike else columns, end, prompts=False, max_tokens=max_tokens, mask=mask
        )

    @classmethod
    def of_positions(cls, positions: Tensor, *, end: int) -> "Position":
        """positions: [B], one token a row. They stay on the device: shapes don't depend on them (CUDA
        graphs)."""
        behind = torch.arange(end, device=positions.device) > positions[:, None, None]
        mask = torch.zeros(behind.shape, device=positions.device).masked_fill_(behind, -torch.inf)
        return cls(positions[None], end, prompts=False, max_tokens=len(positions), mask=mask)

    def of(self, table: Tensor, x: Tensor) -> Tensor:
        """table: [length, p]. Returns its entries for x, broadcastable to [W, B, heads.., p]."""
        return table[self.columns].view(x.shape[0], -1, *[1] * (x.dim() - 3), table.shape[1])

    def write(self, cache: Tensor, new: Tensor) -> None:
        """new: [W, B, .., width] into cache [B, .., length, width]."""
        if isinstance(self.columns, slice):
            cache[..., self.columns, :] = new.movedim(0, -2)
        else:
            rows = torch.arange(cache.shape[0], device=cache.device)
            cache.movedim(-2, 1)[rows, self.columns] = new


class _Rotation:
    """RoPE in three operators: x cos + partner(x) sin; the sine table holds the partner's sign."""

    def __init__(self, rotary: Any, *, length: int, dtype: torch.dtype, interleaved: bool) -> None:
        """interleaved: pairs are neighbours, as in MLA. Megatron moves them to the two halves first; here
        they stay, since a dot product doesn't depend on the order of the channels."""
        rounded = 1 << max(length - 1, 63).bit_length()  # Megatron caches a table for every length asked for
        table = (rotary.rotary if isinstance(rotary, PackRotary) else rotary)(rounded, packed_seq=True)
        angles, scale = table if isinstance(table, tuple) else (table, 1.0)  # YaRN comes with its scale
        angles = angles.view(rounded, -1)  # [length, p], the same angles in both halves
        half = angles.shape[1] // 2
        sign = torch.ones(2 * half, device=angles.device)
        if interleaved:
            angles = angles[:, :half].repeat_interleave(2, dim=1)
            sign[0::2] = -1
        else:
            sign[:half] = -1
        self.interleaved, self.half = interleaved, half
        self.cos = (angles.cos() * scale).to(dtype)
        self.sin = (angles.sin() * sign * scale).to(dtype)

    def __call__(self, x: Tensor, position: Position) -> Tensor:
        """x: [W, B, heads.., d], of which the first p channels turn."""
        turned = self.cos.shape[-1]
        if x.shape[-1] > turned:
            return torch.cat((self(x[..., :turned], position), x[..., turned:]), dim=-1)
        cos, sin = position.of(self.cos, x), position.of(self.sin, x)
        if self.interleaved:
            partner = x.unflatten(-1, (self.half, 2)).flip(-1).flatten(-2)
        else:
            partner = x.roll(self.half, -1)
        return torch.addcmul(x * cos, partner, sin)


def _attend_tokens(query: Tensor, key: Tensor, value: Tensor, *, scale: float, mask: Tensor | None) -> Tensor:
    """query [B * g, W * r, d], key [B * g, S, d], value [B * g, S, v], mask [B, W, S] -> as query, v wide."""
    if mask is None:
        scores = torch.baddbmm(query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=scale)
    else:
        mask = mask.to(query.dtype)
        if mask.shape[1] > 1:  # with one token a row, its mask is broadcast over the heads
            mask = mask.repeat_interleave(query.shape[1] // mask.shape[1], dim=1)
        if mask.shape[0] > 1:
            mask = mask.repeat_interleave(query.shape[0] // mask.shape[0], dim=0)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), value)


def whole(x: Tensor, width: int) -> Tensor:
    """[T, width]: gathers the columns over the tensor ranks, unless x has all of them."""
    return x if x.shape[-1] == width else gather_from_tensor_model_parallel_region(x)


def norm_before(linear: Any, norm: Any) -> Callable[[Tensor], Tensor]:
    """The norm in front of a linear layer. Transformer Engine fuses it into the layer; otherwise it is
    `norm`."""
    weight = getattr(linear, "layer_norm_weight", None)
    if weight is None:
        return norm
    return partial(F.rms_norm, normalized_shape=list(weight.shape), weight=weight, eps=linear.eps)


class GroupedQuery:
    """GQA over SelfAttention's weights. Cache: [B, g, 2, length, d], keys after RoPE and values."""

    def __init__(self, module: Any, rotary: Any, *, length: int, precision: RolloutPrecision | None) -> None:
        weight = module.linear_qkv.weight
        self.qkv = product(weight, precision, module.linear_qkv.bias)
        self.add_projected = addition(module.linear_proj.weight, precision)
        self.q_norm, self.k_norm = module.q_layernorm, module.k_layernorm
        self.groups = module.num_query_groups_per_partition
        self.per_group = module.num_attention_heads_per_partition // self.groups
        self.width = module.hidden_size_per_attention_head
        self.scale = self.width**-0.5
        self.like = weight  # gives the cache its dtype and device
        self.rotate = _Rotation(rotary, length=length, dtype=weight.dtype, interleaved=False)

    def new_cache(self, rows: int, length: int) -> Tensor:
        return self.like.new_zeros(rows, self.groups, 2, length, self.width)

    def __call__(self, stream: Tensor, x: Tensor, cache: Tensor, position: Position) -> Tensor:
        """stream + attention(x); both [W * B, h]."""
        rows, g, r, d = cache.shape[0], self.groups, self.per_group, self.width
        heads = self.qkv(x).view(-1, rows, g, r + 2, d)
        rotated = self.rotate(self._normalised(heads[..., : r + 1, :]), position)  # r queries, then the key
        position.write(cache[:, :, 0], rotated[..., r, :])
        position.write(cache[:, :, 1], heads[..., r + 1, :])
        query = rotated[..., :r, :]  # [W, B, g, r, d]
        keys, values = cache[..., : position.end, :].unbind(2)  # [B, g, S, d]
        if position.prompts:
            out = F.scaled_dot_product_attention(
                query.flatten(2, 3).permute(1, 2, 0, 3), keys, values,
                is_causal=True, scale=self.scale, enable_gqa=self.per_group > 1,
            ).permute(2, 0, 1, 3)  # fmt: skip
        else:
            keys, values = keys.flatten(0, 1), values.flatten(0, 1)
            query = query.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1, 2)
            out = _attend_tokens(query, keys, values, scale=self.scale, mask=position.mask)
            out = out.view(rows, g, -1, r, d).permute(2, 0, 1, 3, 4)
        return self.add_projected(stream, out.reshape(stream.shape[0], -1))

    def _normalised(self, heads: Tensor) -> Tensor:
        if self.q_norm is None:
            return heads
        return torch.cat([self.q_norm(heads[..., :-1, :]), self.k_norm(heads[..., -1:, :])], dim=-2)


class Latent:
    """MLA with absorbed up-projections. Cache: [B, 1, length, c + p], latent and rotated key.

    A head's key is W_k latent, so its score is (W_k' query) latent; its output is W_v (weights x latents).
    All heads share the c + p cached numbers of a token. Source: DeepSeek-V2, 2405.04434, section 2.1.2.
    """

    def __init__(self, module: Any, *, length: int, precision: RolloutPrecision | None) -> None:
        config = module.config
        self.add_projected = addition(module.linear_proj.weight, precision)
        self.kv_down = product(module.linear_kv_down_proj.weight, precision)
        self.latent_norm = norm_before(module.linear_kv_up_proj, module.kv_layernorm)
        self.query_latent: int | None = config.q_lora_rank
        if self.query_latent is None:
            self.query = product(module.linear_q_proj.weight, precision)
        else:
            self.query_down = product(module.linear_q_down_proj.weight, precision)
            self.query_norm = norm_before(module.linear_q_up_proj, module.q_layernorm)
            self.query = product(module.linear_q_up_proj.weight, precision)
        self.heads = module.num_attention_heads_per_partition
        self.key_width, self.latent = config.qk_head_dim, config.kv_lora_rank
        self.rotated = config.qk_pos_emb_head_dim
        self.scale = module.softmax_scale
        up = module.linear_kv_up_proj.weight.view(self.heads, self.key_width + config.v_head_dim, self.latent)
        self.up_key, self.up_value = up[:, : self.key_width], up[:, self.key_width :]  # [n, .., c], views
        self.rotate = _Rotation(module.rotary_pos_emb, length=length, dtype=up.dtype, interleaved=True)

    def new_cache(self, rows: int, length: int) -> Tensor:
        return self.up_key.new_zeros(rows, 1, length, self.latent + self.rotated)

    def __call__(self, stream: Tensor, x: Tensor, cache: Tensor, position: Position) -> Tensor:
        """stream + attention(x); both [W * B, h]."""
        self._remember(x, cache, position)
        query = self._queries(x, cache.shape[0], position)  # [W, B, n, c + p]
        latents = cache[..., : position.end, :]
        if position.prompts:
            found = F.scaled_dot_product_attention(
                query.permute(1, 2, 0, 3), latents, latents,
                is_causal=True, scale=self.scale, enable_gqa=True,
            ).permute(2, 0, 1, 3).flatten(0, 1)[..., : self.latent]  # fmt: skip
        else:
            found = _attend_tokens(
                query.transpose(0, 1).flatten(1, 2), latents[:, 0], latents[:, 0, :, : self.latent],
                scale=self.scale, mask=position.mask,
            ).unflatten(1, (-1, self.heads)).transpose(0, 1).flatten(0, 1)  # fmt: skip
        out = torch.bmm(found.transpose(0, 1), self.up_value.transpose(1, 2))  # [n, W * B, v]
        return self.add_projected(stream, out.transpose(0, 1).flatten(1))

    def _remember(self, x: Tensor, cache: Tensor, position: Position) -> None:
        down = whole(self.kv_down(x), self.latent + self.rotated)
        latent, key = down.view(-1, cache.shape[0], down.shape[-1]).split([self.latent, self.rotated], dim=-1)
        new = torch.cat([self.latent_norm(latent), self.rotate(key, position)], dim=-1)
        position.write(cache[:, 0], new)

    def _queries(self, x: Tensor, rows: int, position: Position) -> Tensor:
        if self.query_latent is not None:
            x = self.query_norm(whole(self.query_down(x), self.query_latent))
        query = self.query(x).view(-1, rows, self.heads, self.key_width + self.rotated)
        plain, rotated = query.split([self.key_width, self.rotated], dim=-1)
        absorbed = torch.bmm(plain.flatten(0, 1).transpose(0, 1), self.up_key)  # [n, W * B, c]
        absorbed = absorbed.transpose(0, 1).unflatten(0, (-1, rows))
        return torch.cat([absorbed, self.rotate(rotated, position)], dim=-1)
