"""How tokens reach experts that lie on several ranks, and their sums come back: two exchanges a layer.

Every rank gets the tokens of all that share its experts, with their routes, computes what its own experts
make of them, and sends each rank its tokens' part. Sizes are fixed by the number of tokens of the rank that
feeds most, which backend/rollout/batch_scheduler.py learns once a step: nobody counts, and nothing here grows
with experts. Ranks that hold the same tokens (tensor and context ranks) need no exchange among themselves,
only the sum.

A token goes to all G ranks, where Megatron's dispatcher sends it to those of its k experts. With G <= k that
is never more; beyond, it costs bytes and saves the dispatcher's own work (`gathers`).
"""

# G ranks that share the experts, N tokens of the one that feeds most, T of this one, k experts a token,
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

# tokens [n, h], with the weights and numbers [n, k] of their experts, -1 for none
Routed = tuple[Tensor, Tensor, Tensor]

# What a rank may receive beyond k copies of a token, each way, by device: about what the link moves while the
# dispatcher counts, sorts and loops. CPU: measured on gloo (benchmarks/results/README.md). CUDA: 1 ms at
# 32 GB/s, never run.
EXTRA_BYTES = {"cpu": 2**20, "cuda": 2**25}


class Exchange:
    """Between the ranks that share this rank's experts."""

    def __init__(self) -> None:
        """Raises ConfigError where a replica shares experts with several others that don't share all of them:
        some ranks of a replica would go on with steps that the others don't know of."""
        self.group = parallel_state.get_expert_tensor_and_model_parallel_group()
        self.size, self.rank = self.group.size(), self.group.rank()
        # ranks that hold the same tokens follow each other: the replica's, or as many of them as are here
        replica = parallel_state.get_tensor_and_context_parallel_group().size()
        if replica % self.size and self.size % replica:
            raise ConfigError(
                f"layout: {self.size} ranks share experts (expert x expert_tensor) and {replica} a sequence "
                "(tensor x context), which can't sample; make one a multiple of the other"
            )
        self.alike = min(replica, self.size)

    @property
    def with_others(self) -> bool:
        """Whether ranks that share the experts have tokens of their own."""
        return self.alike < self.size

    def most(self, *mine: int) -> list[int]:
        """The largest of each on all the ranks."""
        if not self.with_others:
            return list(mine)
        theirs = self._exchanged(torch.tensor(mine, device=device()).expand(self.size, -1).contiguous())
        return theirs.amax(0).tolist()

    def gathers(self, x: Tensor, top_k: int, most: int) -> bool:
        """Whether this way is the better one for x [T, h]; the same on all ranks."""
        extra = (self.size // self.alike - top_k) * most * x.shape[1] * x.element_size()
        return not self.with_others or extra <= EXTRA_BYTES[x.device.type]

    def gather(self, x: Tensor, probs: Tensor, experts: Tensor, *, most: int) -> Callable[[], Routed]:
        """x [T, h], probs and experts [T, k] leave; the result waits for those of all ranks. most: N."""
        if not self.with_others:
            return lambda: (x, probs, experts)
        rows = -(-most // self.alike)  # ranks with the same tokens send a part of them each
        first = self.rank % self.alike * rows
        # one message: whatever the type of x, the routes' bits travel beside it
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
        """found: of all tokens, in the order of `gather` -> [count, h] sums of this rank's over the ranks."""
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
        """parts: a G-th of them for each rank -> what the ranks have for this one, once the work is done.

        From each to each, which gloo does in half the time of its all_gather or all_reduce.
        """
        arrived = torch.empty_like(parts)
        return arrived, dist.all_to_all_single(arrived, parts, group=self.group, async_op=True)
