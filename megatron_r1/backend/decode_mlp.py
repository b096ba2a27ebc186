"""Feed-forward networks of the lean decoder: SwiGLU, and experts over tokens sorted by expert."""

# T tokens, k experts a token, E experts, h hidden, f inner width

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function
from torch import Tensor

from megatron_r1.backend.decode_products import addition, expert_products, product
from megatron_r1.backend.expert_pool import expert_weights
from megatron_r1.backend.rollout_precision import RolloutPrecision

FeedForward = Callable[[Tensor, Tensor], Tensor]  # (stream [T, h], x [T, h]) -> stream + mlp(x)

ROUTER_DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


def feed_forward(module: Any, precision: RolloutPrecision | None) -> FeedForward:
    """A layer's network. Experts on several ranks keep Megatron's dispatcher."""
    if isinstance(module, MoELayer):
        if parallel_state.get_expert_tensor_and_model_parallel_world_size() > 1:
            return _Dispatched(module, precision)
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

    def __call__(self, stream: Tensor, x: Tensor) -> Tensor:
        return self.add_down(stream, _swiglu(self.up(x)))


class _Dispatched:
    """Megatron's dispatcher brings the tokens to the experts, which are its own as they are stored."""

    def __init__(self, module: Any, precision: RolloutPrecision | None) -> None:
        self.module = module
        self.rounded = None if precision is None else Experts(module, precision)

    def __call__(self, stream: Tensor, x: Tensor) -> Tensor:
        hidden = x[:, None]  # [T, 1, h] for Megatron
        if self.rounded is None:
            return stream + self.module(hidden)[0][:, 0]
        layer, dispatcher = self.module, self.module.token_dispatcher
        sent = layer.dispatch(*layer.preprocess(hidden, *layer.route(hidden)))
        tokens, counts, weights = dispatcher.dispatch_postprocess(*sent)
        ends = counts.cumsum(0).to(device=tokens.device, dtype=torch.int32)
        out = self.rounded.apply(tokens, weights[:, None], ends)
        out = layer.postprocess(layer.combine(dispatcher.combine_preprocess(out)), None)
        if self.rounded.shared is not None:
            stream = self.rounded.shared(stream, x)
        return stream + out[:, 0]


class Experts:
    """All experts on this rank: one grouped product a linear layer, or one of each with tokens."""

    def __init__(self, module: Any, precision: RolloutPrecision | None) -> None:
        self.config, self.router = module.config, module.router
        ups = expert_weights(module.experts, "linear_fc1")
        self.products = expert_products(ups, expert_weights(module.experts, "linear_fc2"), precision)
        self.last = len(ups) - 1
        self.upto = torch.arange(1, len(ups) + 1, device=self.router.weight.device)
        shared = module.shared_experts
        self.shared = None if shared is None else _Dense(shared, precision)

    def __call__(self, stream: Tensor, x: Tensor) -> Tensor:
        probs, experts = self._route(x)
        places = self.last - experts if self.products.reversed else experts
        ordered, order = places.flatten().sort()
        ends = torch.searchsorted(ordered, self.upto, out_int32=True)  # [E] tokens up to each expert's last
        token = order.div(experts.shape[1], rounding_mode="floor")
        weights = probs.flatten().index_select(0, order)[:, None]
        out = self.apply(x.index_select(0, token), weights, ends)
        if self.shared is not None:
            stream = self.shared(stream, x)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return stream + out.index_select(0, back).view(*experts.shape, -1).sum(1)

    def apply(self, tokens: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
        """tokens: [T * k, h] sorted by expert, with the weight of each, [T * k, 1]."""
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
