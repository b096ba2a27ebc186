"""Routing replay: training uses the experts that the rollout chose.

Where two experts nearly tie, rounding can make training choose another expert than the rollout, and the
token's log-prob jumps. With the rollout's experts and the trainer's own gate weights both agree, and the
gates still learn (R3, arXiv 2510.11370, section 3; DeepSeek-V3.2, 2512.02556, "keep routing").

Megatron's routers ask an object, `router_replay`, for their experts. Its own implementation
(router_replay.py) is a global list, replays MTP's routers too, and holds the target of one micro-batch, so a
recomputed forward of a pipeline replays the wrong one. Ours takes the routes from the Pack that the router
gets each time its layer runs (router.py).
"""

# B sequences, W tokens fed to each, L MoE layers of the whole model (without MTP's), k experts a token

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from megatron_r1.backend.model.router import PackRouter
from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.errors import ConfigError

Note = Callable[[int, Tensor], None]  # (index of the MoE layer, experts [W * B, k])
TopK = Callable[[Tensor, int, int | None, int | None], tuple[Tensor, Tensor]]


class LayerRoutes:
    """One router's choice of experts: the replayed one, or its own, which a recorder may note."""

    def __init__(self, index: int, router: PackRouter) -> None:
        """index: of the MoE layer in the whole model."""
        self.index, self.router = index, router
        self.note: Note | None = None

    def get_replay_topk(
        self,
        scores: Tensor,
        topk: int,
        num_groups: int | None = None,
        group_topk: int | None = None,
        default_compute_topk: TopK | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Called by topk_routing_with_score_function (moe_utils.py) in place of its own top-k."""
        pack = self.router.pack
        if pack is not None and pack.routes is not None:
            replayed = pack.routes[:, self.index].long()  # [tokens of this rank, k]
            return scores.gather(1, replayed), replayed
        assert default_compute_topk is not None
        values, experts = default_compute_topk(scores, topk, num_groups, group_topk)
        if self.note is not None:
            self.note(self.index, experts)
        return values, experts


def attach(chunks: Sequence[GPTModel]) -> None:
    """Make every router of the decoder recordable and replayable; without routes nothing changes."""
    for layer in _moe_layers(chunks):
        router = layer.mlp.router
        router.router_replay = LayerRoutes(_moe_index(layer.config, layer.layer_number), router)


def require_replay(config: TransformerConfig) -> None:
    """Raises ConfigError where this model's routers can't replay routes."""
    if config.num_moe_experts is None:
        raise ConfigError("routing_replay: the model has no experts, so no routes; set it to false")
    if config.moe_router_fusion:
        raise ConfigError(
            "routing_replay: Transformer Engine's fused router (moe_router_fusion) takes no given experts; "
            "turn one of the two off"
        )
    if config.moe_router_load_balancing_type in ("sinkhorn", "quantile_balancing"):
        raise ConfigError(
            f"routing_replay: a {config.moe_router_load_balancing_type} router takes no given experts; "
            "use another moe_router_load_balancing_type or set routing_replay to false"
        )
    if {"moe", "mlp"} & set(config.recompute_modules or ()) and config.recompute_granularity == "selective":
        raise ConfigError(
            "routing_replay: recomputing the experts alone (recompute_modules) loses a micro-batch's routes; "
            "recompute whole layers (full) or core_attn"
        )


def _moe_layers(chunks: Sequence[GPTModel]) -> Iterator[Any]:
    for chunk in chunks:
        yield from (layer for layer in chunk.decoder.layers if layer.is_moe_layer)


def _moe_index(config: TransformerConfig, layer_number: int) -> int:
    """layer_number: counted from 1 over the whole model."""
    assert isinstance(config.moe_layer_freq, list)
    return sum(config.moe_layer_freq[: layer_number - 1])


class RouteRecorder:
    """The experts of every token that a rollout feeds: [rows, length, L, k]."""

    def __init__(self, chunks: Sequence[GPTModel], *, rows: int, length: int) -> None:
        config = chunks[0].config
        require_replay(config)
        assert config.num_moe_experts is not None
        assert isinstance(config.moe_layer_freq, list)
        self._hooks: list[LayerRoutes] = [layer.mlp.router.router_replay for layer in _moe_layers(chunks)]
        # NCCL supports bytes, but no 16-bit integers
        dtype = torch.uint8 if config.num_moe_experts <= 256 else torch.int32
        # the last column takes tokens that belong to no completion
        shape = (rows, length + 1, sum(config.moe_layer_freq), config.moe_router_topk)
        self._experts = torch.zeros(shape, dtype=dtype, device=device())
        self._rows = self._places = torch.zeros(0, dtype=torch.long)

    @contextmanager
    def feeding(self, rows: Sequence[int], places: Tensor) -> Iterator[None]:
        """Within: the model is fed the tokens at these positions, [B, W], of these rows; -1: padding."""
        self._rows = torch.tensor(rows, device=self._experts.device)[:, None].expand_as(places)
        self._places = places
        for hook in self._hooks:
            hook.note = self.note
        try:
            yield
        finally:
            for hook in self._hooks:
                hook.note = None

    def note(self, index: int, experts: Tensor) -> None:
        """experts: [W * B, k] of MoE layer `index`; the first token of all rows comes first, as in
        Megatron."""
        found = experts.view(self._places.shape[1], self._places.shape[0], -1).transpose(0, 1)
        self._experts[self._rows, self._places, index] = found.to(self._experts.dtype)

    def copy(self, sources: Sequence[int], rows: Sequence[int]) -> None:
        """Row rows[i] was fed the same tokens as row sources[i]: a shared prompt, computed once."""
        where = self._experts.device
        self._experts[torch.tensor(rows, device=where)] = self._experts[torch.tensor(sources, device=where)]

    def of_rows(self, lengths: Sequence[int]) -> list[Tensor]:
        """[lengths[i], L, k] of each row. Collective over the pipeline's ranks."""
        if parallel_state.get_pipeline_model_parallel_world_size() > 1:
            # every rank recorded its own layers; the others are 0
            dist.all_reduce(self._experts, group=parallel_state.get_pipeline_model_parallel_group())
        kept = self._experts.cpu()
        if kept.dtype == torch.int32:
            kept = kept.to(torch.int16)
        return [row[:length].clone() for row, length in zip(kept, lengths, strict=False)]
