"""Threads for each rank, so that the ranks of a machine don't start more threads than it has cores.

By default torch starts one thread for each core in every rank; with several ranks on one machine the threads
compete for the cores and a step takes many times as long.
"""

import os
from collections.abc import Mapping
from pathlib import Path

SMALL_MACHINE_CORES = 4
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may use: its CPU affinity, limited by the container's quota."""
    cores = len(os.sched_getaffinity(0))
    if _CPU_QUOTA.exists():
        quota, period = _CPU_QUOTA.read_text().split()
        if quota != "max":
            cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def threads_per_rank(ranks: int, *, cores: int) -> int:
    """An equal share of the cores; 1 on a small machine, where threads slow tiny models down."""
    return 1 if cores <= SMALL_MACHINE_CORES else max(1, cores // ranks)


def thread_variables(env: Mapping[str, str], *, ranks: int, cores: int) -> dict[str, str]:
    """OMP_NUM_THREADS for the ranks; empty if the user has set it."""
    if "OMP_NUM_THREADS" in env:
        return {}
    return {"OMP_NUM_THREADS": str(threads_per_rank(ranks, cores=cores))}


def crowding_warning(ranks: int, *, cores: int) -> str | None:
    """A warning if there are more ranks than cores; None otherwise."""
    if ranks <= cores:
        return None
    return (
        f"{ranks} ranks share {cores} {'core' if cores == 1 else 'cores'}: they take turns, so a step takes "
        f"at least {ranks / cores:.1f} times as long as with a core for each. Fine for a test of the layout; "
        "for speed lower layout.ranks"
    )
