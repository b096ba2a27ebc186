"""A rank's memory (GPU memory, or resident memory on the CPU): free what is unused, measure the peak."""

import contextlib
import gc
import re
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_r1.backend.parallel.process_groups import device

GIB = 1024**3
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # proc(5): sets the peak to the current resident memory


def release() -> None:
    """Free what earlier stages left: models are reference cycles, which only the garbage collector frees."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()


def reset_peak() -> None:
    """Start a new measurement of the peak."""
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # where /proc is read-only, the peak is that of the whole process
        CLEAR.write_text(FORGET_PEAK)


def peak_gib() -> float:
    """The highest peak of all ranks since `reset_peak`; on the CPU libraries count too. Collective."""
    peak = torch.tensor(_peak_bytes() / GIB, dtype=torch.float64, device=device())
    dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return float(peak)


def _peak_bytes() -> int:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{STATUS} names no VmHWM"
    return int(found[1]) * 1024
