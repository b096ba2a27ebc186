"""Tensors that leave the device for host memory between the phases that need them, and come back in place.

The storages are emptied and filled again, never replaced, so that every view of them stays valid: a flat
buffer's parts, the optimizer's groups. Copies run on a stream of their own; the host's memory is pinned and
allocated once. Megatron's own MegatronOptimizer.offload_to_cpu (0.19.2) waits for copies to pageable memory,
allocates it anew each time, and takes weights along that an fp32 optimizer shares with the model; its
release of gradient buffers is used (offload_grad_buffers).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from megatron_r1.backend.train.optimizer import parts


class HostCopy:
    """Storages of some tensors and the host memory that takes their contents."""

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], *, stay: Sequence[Tensor] = ()) -> None:
        """tensors: those that may go, asked for each time. stay: theirs are the storages that never go."""
        self._tensors, self._stay = tensors, stay
        self._host = torch.empty(0, dtype=torch.uint8)
        self._away: list[tuple[torch.UntypedStorage, Tensor]] = []  # with the host's bytes
        self._stream: torch.cuda.Stream | None = None
        self._arrived: Any = None  # torch.cuda.Event, once `fetch` has begun copies
        self.moved_bytes = 0  # in both directions so far

    @property
    def is_away(self) -> bool:
        return bool(self._away)

    @property
    def away_bytes(self) -> int:
        """Of the device's memory that are free for now."""
        return sum(kept.numel() for _, kept in self._away)

    def put_away(self, *, changed: bool = True) -> None:
        """Free the device's memory; nothing is freed before the host has room for all.

        changed: whether the contents may differ from what the host got the last time.
        """
        if self._away:
            return
        self.wait()
        storages = _storages(self._tensors(), self._stay)
        sizes = [storage.nbytes() for storage in storages]
        if self._host.numel() != sum(sizes):
            on_gpu = any(storage.device.type == "cuda" for storage in storages)
            self._host = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=on_gpu)
            changed = True
        pairs = list(zip(storages, self._host.split(sizes), strict=True)) if sizes else []
        if changed:
            with self._beside():
                for storage, kept in pairs:
                    kept.copy_(_bytes(storage, self._stream), non_blocking=True)
            self.moved_bytes += sum(sizes)
        self._away = pairs
        for storage, _ in pairs:  # on a GPU its allocator keeps the memory until the copy is through
            storage.resize_(0)

    def fetch(self) -> None:
        """Begin to bring all back; `wait` comes before its use. Where it fails, all counts as away still."""
        if not self._away:
            return
        for storage, kept in self._away:  # allocated on the stream that computes
            storage.resize_(kept.numel())
        with self._beside():
            for storage, kept in self._away:
                _bytes(storage, None).copy_(kept, non_blocking=True)
            if self._stream is not None:
                self._arrived = self._stream.record_event()
        self.moved_bytes += self.away_bytes
        self._away = []

    def wait(self) -> None:
        """What is computed from here on sees what `fetch` brought."""
        if self._arrived is not None:
            torch.cuda.current_stream().wait_event(self._arrived)
            self._arrived = None

    @contextmanager
    def here(self) -> Iterator[None]:
        """Within: on the device; then away again, if it was and if nothing changed it."""
        was_away = self.is_away
        self.fetch()
        self.wait()
        try:
            yield
        finally:
            if was_away:
                self.put_away(changed=False)

    def _beside(self) -> Any:
        """Within: copies on a stream of their own, after all that was begun before."""
        if not self._host.is_pinned():
            return nullcontext()
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)


class OffloadedOptimizer:
    """Masters and moments in host memory, gradient buffers freed, from a rollout to the next update."""

    def __init__(
        self,
        models: Sequence[DistributedDataParallel],
        optimizer: MegatronOptimizer,
    ) -> None:
        self._models = models
        weights = [t for m in models for t in (*m.module.parameters(), *m.module.buffers())]
        self.state = HostCopy(lambda: _optimizer_tensors(optimizer), stay=weights)
        self._gradients_away = False

    def put_away(self) -> None:
        """Gradients are lost: an update begins with zeros."""
        self.state.put_away()
        if not self._gradients_away:
            self._gradients_away = True
            for model in self._models:
                model.offload_grad_buffers(synchronize=False, empty_cache=False)

    def fetch(self) -> None:
        """Gradient buffers are there at once, the rest after `wait`."""
        if self._gradients_away:
            for model in self._models:
                model.restore_grad_buffers(synchronize=False)
            self._gradients_away = False
        self.state.fetch()

    def wait(self) -> None:
        self.state.wait()


def _optimizer_tensors(optimizer: MegatronOptimizer) -> Iterator[Tensor]:
    """What Adam reads and writes, but for its counts."""
    for part in parts(optimizer):
        for group in part.param_groups:
            yield from group["params"]
        for state in part.optimizer.state.values():
            yield from (v for k, v in state.items() if isinstance(v, Tensor) and k != "step")


def _storages(tensors: Iterable[Tensor], stay: Sequence[Tensor]) -> list[torch.UntypedStorage]:
    """Each once, without those of `stay`."""
    found = {_identity(s): s for s in (tensor.untyped_storage() for tensor in tensors) if s.nbytes()}
    for tensor in stay:
        found.pop(_identity(tensor.untyped_storage()), None)
    return list(found.values())


def _identity(storage: torch.UntypedStorage) -> int:
    return storage._cdata


def _bytes(storage: torch.UntypedStorage, stream: torch.cuda.Stream | None) -> Tensor:
    """[nbytes] of the storage. stream: what reads it, for the allocator to wait for if it is freed."""
    view = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    if stream is not None:
        view.record_stream(stream)
    return view
