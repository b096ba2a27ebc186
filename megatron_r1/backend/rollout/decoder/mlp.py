"""MLPs of the built-in decoder: SwiGLU, and MoE over tokens sorted by expert."""

# T tokens, k experts a token, E experts, h hidden, f inner width

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function
from torch import Tensor

from megatron_r1.backend.rollout.decoder.expert_parallel import Exchange
from megatron_r1.backend.rollout.decoder.expert_weights import expert_weights
from megatron_r1.backend.rollout.decoder.linear import addition, expert_products, product
from megatron_r1.backend.rollout.fp8 import RolloutPrecision

# (stream [T, h], x [T, h], Position.max_tokens) -> stream + mlp(x)
FeedForward = Callable[[Tensor, Tensor, int], Tensor]

ROUTER_DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


def feed_forward(module: Any, precision: RolloutPrecision | None) -> FeedForward:
    """The MLP or MoE of a layer."""
    if isinstance(module, MoELayer):
        return Experts(module, precision)
    assert isinstance(module, MLP)
    return _Dense(module, precision)


def _swiglu(x: Tensor) -> Tensor:
    """[T, 2 f] -> [T, f]."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


class _Dense:
    def __init__(self, module: Any, precision: RolloutPrecision | None) -> None:
        self.up = product(module.linear_fc1.weight, precision)
        self.add_down = addition(module.linear_fc2.weight, precision)

    def __call__(self, stream: Tensor, x: Tensor, max_tokens: int) -> Tensor:
        return self.add_down(stream, _swiglu(self.up(x)))


class Experts:
    """A MoE layer: one grouped product for the experts on this rank, or one product for each with tokens."""

    def __init__(self, module: Any, precision: RolloutPrecision | None) -> None:
        self.module, self.exchange = module, Exchange()
        self.config, self.router, self.rounded = module.config, module.router, precision is not None
        ups = expert_weights(module.experts, "linear_fc1")
        self.products = expert_products(ups, expert_weights(module.experts, "linear_fc2"), precision)
        self.upto = torch.arange(1, len(ups) + 1, device=self.router.weight.device)
        # [experts of the whole layer + 1]: each expert's index in the product; those of other ranks, and "no
        # expert" (the last entry), sort behind all of these
        self.local_index = torch.full((self.config.num_moe_experts + 1,), len(ups), device=self.upto.device)
        local_index = self.upto - 1
        self.local_index[module.local_expert_indices] = (
            local_index.flip(0) if self.products.reversed else local_index
        )
        self.has_all = len(ups) == self.config.num_moe_experts
        shared = module.shared_experts
        self.shared = None if shared is None else _Dense(shared, precision)

    def __call__(self, stream: Tensor, x: Tensor, max_tokens: int) -> Tensor:
        if not self.exchange.gathers(x, self.router.topk, max_tokens):
            return self._dispatched(stream, x, max_tokens)
        all_tokens = self.exchange.gather(x, *self._route(x), max_tokens=max_tokens)
        if self.shared is not None:
            stream = self.shared(stream, x, max_tokens)
        return stream + self.exchange.sum(self._routed(*all_tokens()), len(x))

    def _dispatched(self, stream: Tensor, x: Tensor, max_tokens: int) -> Tensor:
        """Through Megatron's dispatcher, to its own experts, or to the rounded ones here in FP8."""
        hidden = x[:, None]  # [T, 1, h]
        if not self.rounded:
            return stream + self.module(hidden)[0][:, 0]
        layer, dispatcher = self.module, self.module.token_dispatcher
        sent = layer.dispatch(*layer.preprocess(hidden, *layer.route(hidden)))
        tokens, counts, weights = dispatcher.dispatch_postprocess(*sent)
        ends = counts.cumsum(0).to(device=tokens.device, dtype=torch.int32)
        out = self._apply(tokens, weights[:, None], ends)
        out = layer.postprocess(layer.combine(dispatcher.combine_preprocess(out)), None)
        if self.shared is not None:
            stream = self.shared(stream, x, max_tokens)
        return stream + out[:, 0]

    def _routed(self, x: Tensor, probs: Tensor, experts: Tensor) -> Tensor:
        """[T, h]: the sums of this rank's experts for x. probs, experts: [T, k]; expert -1: none."""
        ordered, order = self.local_index[experts.flatten()].sort()
        ends = torch.searchsorted(ordered, self.upto, out_int32=True)  # [E] tokens up to each expert's last
        uncounted = x.is_cuda and self.products.grouped  # reading the counts would sync the device
        if not self.has_all and not uncounted:
            order = order[: int(ends[-1])]
        token = order.div(experts.shape[1], rounding_mode="floor")
        weights = probs.flatten().index_select(0, order)[:, None]
        out = self._apply(x.index_select(0, token), weights, ends)
        if not x.is_cuda:
            return out.new_zeros(x.shape).index_add_(0, token, out)
        # not index_add_: on a device its order of additions varies. Rows beyond all experts' are
        # uninitialised.
        if not self.has_all and uncounted:
            out = out.masked_fill(torch.arange(len(order), device=x.device)[:, None] >= ends[-1], 0)
        placed = out.new_zeros(experts.numel(), x.shape[1]).index_copy_(0, order, out)
        return placed.view(*experts.shape, -1).sum(1)

    def _apply(self, tokens: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
        """tokens: [n, h] sorted by expert, with the weight of each, [n, 1]."""
        if not len(tokens):
            return tokens
        products = self.products
        bounds = ends if products.grouped else ends.diff(prepend=ends.new_zeros(1)).tolist()
        inner = _swiglu(products.up(tokens, bounds))
        return products.down(inner * weights.to(inner.dtype), bounds)

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Megatron's own routing: weights [T, k] and experts [T, k]."""
        config, router = self.config, self.router
        dtype = ROUTER_DTYPES.get(config.moe_router_dtype or "", x.dtype)
        return topk_routing_with_score_function(
            F.linear(x.to(dtype), router.weight.to(dtype)),
            router.topk,
            use_pre_softmax=config.moe_router_pre_softmax,
            num_groups=config.moe_router_num_groups,
            group_topk=config.moe_router_group_topk,
            scaling_factor=config.moe_router_topk_scaling_factor,
            score_function=router.score_function,
            expert_bias=router.expert_bias,
            router_replay=router.router_replay,
            dense_output=True,
        )
