"""The reference policy: a second set of weights that is swapped into the model for a forward pass.

No second model is built: tensors swap storage with the live ones, so nothing is copied, the layout is the
same by construction, and a refresh is a copy of the weights.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from megatron_r1.backend.train.cpu_offload import HostCopy


class ReferenceWeights:
    """A copy of all parameters and buffers, including the router's expert bias."""

    def __init__(self, chunks: Sequence[torch.nn.Module]) -> None:
        self._live = [tensor for chunk in chunks for tensor in _weights(chunk)]
        self.tensors = [tensor.detach().clone() for tensor in self._live]
        self.host = HostCopy(lambda: self.tensors)
        self._changed = True  # since the last offload

    def offload(self) -> None:
        """Offload to CPU until the next pass."""
        self.host.offload(changed=self._changed)
        self._changed = False

    def refresh(self) -> None:
        """Copy the live weights."""
        self.host.reload()
        self.host.wait()
        self._changed = True
        for kept, live in zip(self.tensors, self._live, strict=True):
            kept.copy_(live.detach())

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within: the model computes with the reference's weights. Restored after errors too."""
        with self.host.on_device():
            self._swap()
            try:
                yield
            finally:
                self._swap()

    def _swap(self) -> None:
        for kept, live in zip(self.tensors, self._live, strict=True):
            kept.data, live.data = live.data, kept.data


def _weights(chunk: torch.nn.Module) -> list[Tensor]:
    return [*chunk.parameters(), *chunk.buffers()]
