"""What this device can do, where the floors stand: the rate of its best large product, and of its memory."""

import statistics
import time
from collections.abc import Callable

import torch

from megatron_r1.backend.parallel.process_groups import device

# rows x inner x columns; a card's best is at one of them, and which differs between cards
PRODUCTS = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 8192), (16384, 8192, 16384))
MEMORY_BYTES = 4 * 2**30
TIMES = 20


def best_product(sizes: tuple[tuple[int, int, int], ...] = PRODUCTS, *, times: int = TIMES) -> float:
    """FLOP/s in bf16 of the size with the best median, on random data (zeros cost less power)."""
    return max(_product_rate(*size, times=times) for size in sizes)


def _product_rate(rows: int, inner: int, columns: int, *, times: int) -> float:
    a = torch.randn(rows, inner, device=device(), dtype=torch.bfloat16)
    b = torch.randn(inner, columns, device=device(), dtype=torch.bfloat16)
    out = torch.empty(rows, columns, device=device(), dtype=torch.bfloat16)
    return 2 * rows * inner * columns / median_seconds(lambda: torch.mm(a, b, out=out), times=times)


def bandwidth(size: int = MEMORY_BYTES, *, times: int = TIMES) -> float:
    """Bytes/s, the better of two medians: a copy (which reads and writes) and a sum (which only reads)."""
    source = torch.ones(size // 4, device=device())
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), times=times)
    return max(copied, source.nbytes / median_seconds(source.sum, times=times))


def median_seconds(run: Callable[[], object], *, times: int) -> float:
    """Of one call; three before it warm up."""
    return statistics.median([seconds(run) for _ in range(3 + times)][3:])


def seconds(run: Callable[[], object]) -> float:
    """By the clock, with what the device still had to do."""
    wait()
    began = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - began


def wait() -> None:
    """Until the device has done what it was asked."""
    if device().type == "cuda":
        torch.cuda.synchronize()
