"""Memory of log-probs of 8,192 tokens over 129,280 words: the output head in chunks, beside it in one piece.

    python -m benchmarks.logprob_memory

The peak of live tensors' bytes under FakeTensorMode: exact, with no clock, and no machine needs to hold them.
The weight (1 GiB in fp32), the hidden states and the labels are there beforehand and not counted.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import twins
from benchmarks.record import record

TOKENS, WORDS, HIDDEN = 8192, 129_280, 2048
MAX_LOGITS = 1 << 26  # run_config.py's default


class Live(TorchDispatchMode):
    """Bytes of the storages that operations have made and that are still held, and their peak."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}  # by the storage's address; its finalizer takes it out
        self._given = {each.untyped_storage()._cdata for each in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                self._note(each.untyped_storage())
        return found

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in self._given:
            return
        self._seen[key] = weakref.finalize(storage, self._gone, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


def main() -> None:
    twins.start_alone()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for what in ("log-probs", "log-probs and entropy", "forward and backward, entropy"):
            plain, ours = (_peak(what, dtype, limit) / 2**30 for limit in (None, MAX_LOGITS))
            rows.append(
                {
                    "type": str(dtype).removeprefix("torch."),
                    "pass": what,
                    "in one piece, GiB": round(plain, 2),
                    "in chunks, GiB": round(ours, 2),
                    "share": f"1/{plain / ours:.1f}",
                }
            )
    record("logprob_memory", rows)


def _peak(what: str, dtype: torch.dtype, max_logits: int | None) -> int:
    from megatron_r1.backend.model.lm_head import LmHead

    backward = what.startswith("forward")
    with FakeTensorMode(), torch.set_grad_enabled(backward):
        layer = _output_layer(dtype)
        hidden = torch.empty(TOKENS, 1, HIDDEN, dtype=dtype, requires_grad=backward)
        labels = torch.zeros(TOKENS, dtype=torch.long)
        head = LmHead(layer, None, max_logits)
        with Live([layer.weight, hidden, labels]) as live:
            found = head(hidden, labels, entropy="entropy" in what)[0]
            if backward:
                found.sum().backward()
        return live.peak


def _output_layer(dtype: torch.dtype) -> Any:
    from megatron.core.model_parallel_config import ModelParallelConfig
    from megatron.core.tensor_parallel import ColumnParallelLinear

    config = ModelParallelConfig(
        params_dtype=dtype, perform_initialization=False, use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
    )  # fmt: skip
    return ColumnParallelLinear(
        HIDDEN, WORDS, config=config, init_method=torch.nn.init.zeros_, bias=False, skip_bias_add=False
    )


if __name__ == "__main__":
    main()
