"""CPU offload: tensors leave the device between the phases that need them and are reloaded in place.

Storages are resized to 0 and refilled, never replaced, so all views of them stay valid (a flat buffer's
parts, the optimizer's groups). Copies run on their own stream into pinned memory that is allocated once.
Megatron's MegatronOptimizer.offload_to_cpu (0.19.2) copies synchronously to pageable memory, allocates it
each time, and also takes weights that an fp32 optimizer shares with the model; only its release of gradient
buffers is used (offload_grad_buffers).
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
    """Offloads the storages of some tensors to host memory and reloads them."""

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], *, stay: Sequence[Tensor] = ()) -> None:
        """tensors: gives the tensors to offload, called each time. stay: their storages are never
        offloaded."""
        self._tensors, self._stay = tensors, stay
        self._host = torch.empty(0, dtype=torch.uint8)
        self._offloaded: list[tuple[torch.UntypedStorage, Tensor]] = []  # each with its host copy
        self._stream: torch.cuda.Stream | None = None
        self._reloaded: Any = None  # torch.cuda.Event after the copies of `reload`
        self.moved_bytes = 0  # in both directions so far

    @property
    def is_offloaded(self) -> bool:
        return bool(self._offloaded)

    @property
    def offloaded_bytes(self) -> int:
        """Bytes of the device's memory that are free while offloaded."""
        return sum(kept.numel() for _, kept in self._offloaded)

    def offload(self, *, changed: bool = True) -> None:
        """Free the device's memory; nothing is freed before the host memory for all is allocated.

        changed: whether the contents may differ from the host copy.
        """
        if self._offloaded:
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
            with self._copy_stream():
                for storage, kept in pairs:
                    kept.copy_(_bytes(storage, self._stream), non_blocking=True)
            self.moved_bytes += sum(sizes)
        self._offloaded = pairs
        for storage, _ in pairs:  # on a GPU the allocator waits for the copy before it reuses the memory
            storage.resize_(0)

    def reload(self) -> None:
        """Start copying all back; call `wait` before use. If it fails, all still counts as offloaded."""
        if not self._offloaded:
            return
        for storage, kept in self._offloaded:  # allocated on the compute stream
            storage.resize_(kept.numel())
        with self._copy_stream():
            for storage, kept in self._offloaded:
                _bytes(storage, None).copy_(kept, non_blocking=True)
            if self._stream is not None:
                self._reloaded = self._stream.record_event()
        self.moved_bytes += self.offloaded_bytes
        self._offloaded = []

    def wait(self) -> None:
        """Make the compute stream wait for the copies of `reload`."""
        if self._reloaded is not None:
            torch.cuda.current_stream().wait_event(self._reloaded)
            self._reloaded = None

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Within: the tensors are on the device. They must not be changed if they were offloaded before."""
        was_offloaded = self.is_offloaded
        self.reload()
        self.wait()
        try:
            yield
        finally:
            if was_offloaded:
                self.offload(changed=False)

    def _copy_stream(self) -> Any:
        """Within: copies run on their own stream, after all work already queued."""
        if not self._host.is_pinned():
            return nullcontext()
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)


class OffloadedOptimizer:
    """Offloads masters and moments and frees gradient buffers from a rollout to the next update."""

    def __init__(
        self,
        models: Sequence[DistributedDataParallel],
        optimizer: MegatronOptimizer,
    ) -> None:
        self._models = models
        weights = [t for m in models for t in (*m.module.parameters(), *m.module.buffers())]
        self.state = HostCopy(lambda: _optimizer_tensors(optimizer), stay=weights)
        self._gradients_freed = False

    def offload(self) -> None:
        """Gradients are lost; every update starts from zeros."""
        self.state.offload()
        if not self._gradients_freed:
            self._gradients_freed = True
            for model in self._models:
                model.offload_grad_buffers(synchronize=False, empty_cache=False)

    def reload(self) -> None:
        """Gradient buffers are back at once, the rest after `wait`."""
        if self._gradients_freed:
            for model in self._models:
                model.restore_grad_buffers(synchronize=False)
            self._gradients_freed = False
        self.state.reload()

    def wait(self) -> None:
        self.state.wait()


def _optimizer_tensors(optimizer: MegatronOptimizer) -> Iterator[Tensor]:
    """The tensors that Adam reads and writes, without step counts."""
    for part in parts(optimizer):
        for group in part.param_groups:
            yield from group["params"]
        for state in part.optimizer.state.values():
            yield from (v for k, v in state.items() if isinstance(v, Tensor) and k != "step")


def _storages(tensors: Iterable[Tensor], stay: Sequence[Tensor]) -> list[torch.UntypedStorage]:
    """The tensors' storages, each once, without those of `stay`."""
    found = {_identity(s): s for s in (tensor.untyped_storage() for tensor in tensors) if s.nbytes()}
    for tensor in stay:
        found.pop(_identity(tensor.untyped_storage()), None)
    return list(found.values())


def _identity(storage: torch.UntypedStorage) -> int:
    return storage._cdata


def _bytes(storage: torch.UntypedStorage, stream: torch.cuda.Stream | None) -> Tensor:
    """[nbytes] uint8 view of the storage. stream: reads it, so the allocator waits for it after a free."""
    view = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    if stream is not None:
        view.record_stream(stream)
    return view
