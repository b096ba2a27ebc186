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

FeedForward = Callable[[Tensor, Tensor], Tensor]  # (stream [T, h], x [T, h]) -> stream + mlp(x)

ROUTER_DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


def feed_forward(module: Any) -> FeedForward:
    """A layer's network. Experts on several ranks keep Megatron's dispatcher."""
    if isinstance(module, MoELayer):
        if parallel_state.get_expert_tensor_and_model_parallel_world_size() > 1:
            return _Dispatched(module)
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

    def __call__(self, stream: Tensor, x: Tensor) -> Tensor:
        return added(stream, _swiglu(F.linear(x, self.up)), self.down)


class _Dispatched:
    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, stream: Tensor, x: Tensor) -> Tensor:
        return stream + self.module(x[:, None])[0][:, 0]  # [T, 1, h] for Megatron


class _Experts:
    """All experts on this rank. Two matrix products an expert that has tokens; the rest is done for all."""

    def __init__(self, module: Any) -> None:
        self.config, self.router = module.config, module.router
        self.ups = _weights(module.experts, "linear_fc1")
        self.downs = _weights(module.experts, "linear_fc2")
        self.shared = None if module.shared_experts is None else _Dense(module.shared_experts)

    def __call__(self, stream: Tensor, x: Tensor) -> Tensor:
        probs, experts = self._route(x)
        ordered, order = experts.flatten().sort()
        counts = ordered.bincount(minlength=len(self.ups)).tolist()
        token = order.div(experts.shape[1], rounding_mode="floor")
        inner = _swiglu(_by_expert(x.index_select(0, token), self.ups, counts))
        weighted = inner * probs.flatten().index_select(0, order)[:, None].to(inner.dtype)
        out = _by_expert(weighted, self.downs, counts)
        if self.shared is not None:
            stream = self.shared(stream, x)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return stream + out.index_select(0, back).view(*experts.shape, -1).sum(1)

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


def _weights(experts: Any, name: str) -> list[Tensor]:
    """Of one linear layer of each expert here: modules of their own, or one grouped layer."""
    if hasattr(experts, "local_experts"):
        return [getattr(expert, name).weight for expert in experts.local_experts]
    grouped = getattr(experts, name)
    return [getattr(grouped, f"weight{i}") for i in range(grouped.num_gemms)]


def _by_expert(tokens: Tensor, weights: list[Tensor], counts: list[int]) -> Tensor:
    """tokens sorted by expert, each through its expert's weight."""
    parts = zip(tokens.split(counts), weights, strict=True)
    return torch.cat([F.linear(part, weight) for part, weight in parts if len(part)])
