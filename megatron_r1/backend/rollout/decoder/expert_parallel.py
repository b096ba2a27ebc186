"""Expert-parallel exchange while decoding: all-gather the tokens, reduce-scatter the experts' sums.

Every rank of the expert-parallel group gets all its tokens with their routes, computes its own experts, and
sends each rank the sums for its tokens. All messages are padded to the largest number of tokens of a rank,
which the batch scheduler learns once a step, so no layer exchanges counts. Tensor and context ranks hold the
same tokens and only add up.

A token goes to all G ranks, while Megatron's dispatcher sends it only to those of its k experts. With G <= k
that is never more; beyond, it sends more bytes but saves the dispatcher's own work (`gathers` decides).
"""

# G ranks of the expert-parallel group, N most tokens of one of them, T tokens of this one, k experts a token,
# h hidden

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from torch import Tensor

from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.errors import ConfigError

# tokens [n, h], the weights of their experts [n, k] and the experts' indices [n, k], -1 for none
Routed = tuple[Tensor, Tensor, Tensor]

# Bytes that a rank may receive beyond k copies of a token, each way, by device: about what the link moves
# while Megatron's dispatcher works. CPU: measured on gloo (benchmarks/results/README.md). CUDA: 1 ms at 32
# GB/s, never run.
EXTRA_BYTES = {"cpu": 2**20, "cuda": 2**25}


class Exchange:
    """Collectives of the expert-parallel group while decoding."""

    def __init__(self) -> None:
        """Raises ConfigError where the group holds only some ranks of a data-parallel rank: these would take
        steps that the others don't."""
        self.group = parallel_state.get_expert_tensor_and_model_parallel_group()
        self.size, self.rank = self.group.size(), self.group.rank()
        # ranks with the same tokens are neighbours: those of one data-parallel rank that are in this group
        replica = parallel_state.get_tensor_and_context_parallel_group().size()
        if replica % self.size and self.size % replica:
            raise ConfigError(
                f"layout: {self.size} ranks share experts (expert x expert_tensor) and {replica} a sequence "
                "(tensor x context), which can't sample; make one a multiple of the other"
            )
        self.alike = min(replica, self.size)

    @property
    def with_others(self) -> bool:
        """Whether the group has ranks with other tokens."""
        return self.alike < self.size

    def maximum(self, *mine: int) -> list[int]:
        """The maximum of each value over the group."""
        if not self.with_others:
            return list(mine)
        theirs = self._exchanged(torch.tensor(mine, device=device()).expand(self.size, -1).contiguous())
        return theirs.amax(0).tolist()

    def gathers(self, x: Tensor, top_k: int, max_tokens: int) -> bool:
        """Whether gathering x [T, h] is cheaper than Megatron's dispatcher; the same on all ranks."""
        extra = (self.size // self.alike - top_k) * max_tokens * x.shape[1] * x.element_size()
        return not self.with_others or extra <= EXTRA_BYTES[x.device.type]

    def gather(self, x: Tensor, probs: Tensor, experts: Tensor, *, max_tokens: int) -> Callable[[], Routed]:
        """Sends x [T, h], probs and experts [T, k]; the result, when called, waits for those of all ranks.
        max_tokens: N."""
        if not self.with_others:
            return lambda: (x, probs, experts)
        rows = -(-max_tokens // self.alike)  # ranks with the same tokens send a part of them each
        first = self.rank % self.alike * rows
        # one message: the routes are reinterpreted as x's dtype and sent beside it
        routes = (probs.float().view(x.dtype), (experts + 1).int().view(x.dtype))
        mine = torch.cat([x, *routes], dim=1)[first : first + rows]
        arrived, work = self._exchange(F.pad(mine, (0, 0, 0, rows - len(mine))).repeat(self.size, 1))
        widths = [x.shape[1], *(bits.shape[1] for bits in routes)]

        def all_tokens() -> Routed:
            work.wait()
            tokens, weights, numbers = arrived.split(widths, dim=1)
            return tokens, weights.view(torch.float32), numbers.view(torch.int32) - 1

        return all_tokens

    def sum(self, found: Tensor, count: int) -> Tensor:
        """found: of all tokens, in the order of `gather`. Returns [count, h], this rank's tokens summed over
        the group."""
        if self.size == 1:
            return found
        if not self.with_others:
            dist.all_reduce(found, group=self.group)
            return found
        parts = found.view(self.size // self.alike, -1, found.shape[1])
        if self.alike > 1:
            parts = parts.repeat_interleave(self.alike, 0)
        return self._exchanged(parts).sum(0)[:count]

    def _exchanged(self, parts: Tensor) -> Tensor:
        arrived, work = self._exchange(parts)
        work.wait()
        return arrived

    def _exchange(self, parts: Tensor) -> tuple[Tensor, Any]:
        """All-to-all of `parts`, a G-th for each rank; gloo needs half the time of its all_gather or
        all_reduce."""
        arrived = torch.empty_like(parts)
        return arrived, dist.all_to_all_single(arrived, parts, group=self.group, async_op=True)
