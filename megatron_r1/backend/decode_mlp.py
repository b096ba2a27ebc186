"""Feed-forward networks of the lean decoder: SwiGLU, and experts over tokens sorted by expert."""

# T tokens, k experts a token, E experts, h hidden, f inner width

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function
from torch import Tensor

from megatron_r1.backend.expert_exchange import Exchange
from megatron_r1.backend.expert_pool import expert_weights, stacked

# (stream [T, h], x [T, h], tokens of the rank that feeds most: Position.most) -> stream + mlp(x)
FeedForward = Callable[[Tensor, Tensor, int], Tensor]

ROUTER_DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


def feed_forward(module: Any) -> FeedForward:
    """A layer's network."""
    if isinstance(module, MoELayer):
        return _Experts(module)
    assert isinstance(module, MLP)
    return _Dense(module)


def added(stream: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """stream [T, h] + weight x, the sum over the tensor ranks, each of which has its columns of weight."""
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        return torch.addmm(stream, x, weight.t())
    return stream + reduce_from_tensor_model_parallel_region(F.linear(x, weight))


def _swiglu(x: Tensor) -> Tensor:
    """[T, 2 f] -> [T, f]."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


class _Dense:
    def __init__(self, module: Any) -> None:
        self.up, self.down = module.linear_fc1.weight, module.linear_fc2.weight

    def __call__(self, stream: Tensor, x: Tensor, most: int) -> Tensor:
        return added(stream, _swiglu(F.linear(x, self.up)), self.down)


class _Experts:
    """The experts on this rank: one grouped product a linear layer, or one of each with tokens."""

    def __init__(self, module: Any) -> None:
        self.module, self.exchange = module, Exchange()
        self.config, self.router = module.config, module.router
        self.ups = expert_weights(module.experts, "linear_fc1")
        self.downs = expert_weights(module.experts, "linear_fc2")
        up, down = stacked(self.ups), stacked(self.downs)
        self.grouped = up is not None and down is not None and up.reversed == down.reversed
        if self.grouped:
            assert up is not None
            assert down is not None
            self.up, self.down, self.reversed = up.weights.mT, down.weights.mT, up.reversed  # [E, in, out]
        self.upto = torch.arange(1, len(self.ups) + 1, device=self.router.weight.device)
        # [E of the whole layer + 1]: where each expert stands in the product; those of other ranks, and none
        # (the last), behind all
        self.places = torch.full((self.config.num_moe_experts + 1,), len(self.ups), device=self.upto.device)
        places = self.upto - 1
        self.places[module.local_expert_indices] = (
            places.flip(0) if self.grouped and self.reversed else places
        )
        self.has_all = len(self.ups) == self.config.num_moe_experts
        self.shared = None if module.shared_experts is None else _Dense(module.shared_experts)

    def __call__(self, stream: Tensor, x: Tensor, most: int) -> Tensor:
        if not self.exchange.gathers(x, self.router.topk, most):
            return stream + self.module(x[:, None])[0][:, 0]  # [T, 1, h] for Megatron's dispatcher
        all_tokens = self.exchange.gather(x, *self._route(x), most=most)
        if self.shared is not None:
            stream = self.shared(stream, x, most)
        return stream + self.exchange.sum(self._routed(*all_tokens()), len(x))

    def _routed(self, x: Tensor, probs: Tensor, experts: Tensor) -> Tensor:
        """[T, h] what this rank's experts make of x, weights and experts [T, k], -1 for none."""
        ordered, order = self.places[experts.flatten()].sort()
        ends = torch.searchsorted(ordered, self.upto, out_int32=True)  # [E] tokens up to each expert's last
        if not self.has_all and not x.is_cuda:  # a device would have to be waited for
            order = order[: int(ends[-1])]
        token = order.div(experts.shape[1], rounding_mode="floor")
        weights = probs.flatten().index_select(0, order)[:, None]
        out = self._apply(x.index_select(0, token), weights, ends)
        if not x.is_cuda:
            return out.new_zeros(x.shape).index_add_(0, token, out)
        # a device would add in any order; and what is behind all experts' is left as the memory was
        if not self.has_all:
            out = out.masked_fill(torch.arange(len(order), device=x.device)[:, None] >= ends[-1], 0)
        placed = torch.empty_like(out).index_copy_(0, order, out)
        return placed.view(*experts.shape, -1).sum(1)

    def _apply(self, tokens: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
        """tokens: [n, h] sorted by expert, with the weight of each, [n, 1]."""
        if self.grouped:
            inner = _swiglu(F.grouped_mm(tokens, self.up, offs=ends))
            return F.grouped_mm(inner * weights.to(inner.dtype), self.down, offs=ends)
        counts = ends.diff(prepend=ends.new_zeros(1)).tolist()
        inner = _swiglu(_by_expert(tokens, self.ups, counts))
        return _by_expert(inner * weights.to(inner.dtype), self.downs, counts)

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


def _by_expert(tokens: Tensor, weights: list[Tensor], counts: list[int]) -> Tensor:
    """tokens sorted by expert, each through its expert's weight."""
    parts = zip(tokens[: sum(counts)].split(counts), weights, strict=True)
    found = [F.linear(part, weight) for part, weight in parts if len(part)]
    return torch.cat(found) if found else F.linear(tokens[:0], weights[0])
