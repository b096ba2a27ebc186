"""Contenders in turn, medians, and where it was measured.

The clock is the process's CPU time: with one thread it is what a quiet machine would take, and it does not
count the time that other jobs hold the core. Wall time stands next to it.
"""

import contextlib
import os
import platform
import random
import socket
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Timing:
    """One run of a contender."""

    cpu_s: float
    wall_s: float


def one_thread() -> None:
    """What a rank on a shared machine has. `taskset -c 1 python -m ...` keeps it on one core, too."""
    torch.set_num_threads(1)


def timed(run: Callable[[], object]) -> Timing:
    began = now()
    run()
    return since(began)


def now() -> Timing:
    """Both clocks, once a GPU has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Timing(time.process_time(), time.perf_counter())


def since(began: Timing) -> Timing:
    ended = now()
    return Timing(ended.cpu_s - began.cpu_s, ended.wall_s - began.wall_s)


def in_turn(contenders: Mapping[str, Callable[[], object]], *, rounds: int = 3) -> dict[str, list[Timing]]:
    """Each contender once a round, so that all of them meet the same weather."""
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            timings[name].append(timed(run))
    return timings


def rates(timings: Mapping[str, list[Timing]], *, tokens: int) -> dict[str, dict[str, float]]:
    """Tokens a second of each contender, by the median."""
    return {
        name: {
            "tokens_per_cpu_s": round(tokens / statistics.median(t.cpu_s for t in found)),
            "tokens_per_wall_s": round(tokens / statistics.median(t.wall_s for t in found)),
        }
        for name, found in timings.items()
    }


def median_ratio(
    timings: Mapping[str, list[Timing]], *, ours: str, theirs: str, clock: str = "cpu_s"
) -> float:
    """How many times faster: the median over rounds, so that each quotient is of one round."""
    pairs = zip(timings[ours], timings[theirs], strict=True)
    return round(statistics.median(getattr(b, clock) / getattr(a, clock) for a, b in pairs), 2)


def free_port() -> int:
    """Below those that the system deals out: gloo's own sockets can't take it meanwhile."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def machine() -> dict[str, object]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads_used": torch.get_num_threads(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    flags = " with AMX" if "amx_tile" in names.get("flags", "") else ""
    return names.get("model name", platform.processor()) + flags
