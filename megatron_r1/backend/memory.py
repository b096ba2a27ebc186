"""A rank's memory, of its GPU or resident where it computes on the CPU: freed, and the most that it held."""

import contextlib
import gc
import re
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_r1.backend.parallel.process_groups import device

GIB = 1024**3
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # proc(5): the peak becomes what is resident now


def release() -> None:
    """Free what earlier stages left: models are cycles, which only a collection finds."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()


def reset_peak() -> None:
    """Count from here."""
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # where it is read-only, the peak is that of the whole process
        CLEAR.write_text(FORGET_PEAK)


def peak_gib() -> float:
    """Of the rank that held the most since `reset_peak`; on the CPU with its libraries. Collective."""
    peak = torch.tensor(_peak_bytes() / GIB, dtype=torch.float64, device=device())
    dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return float(peak)


def _peak_bytes() -> int:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{STATUS} names no VmHWM"
    return int(found[1]) * 1024
