"""All benchmarks of a GPU in turn, and the table of what was asked. `python -m benchmarks.gpu [--seconds N]`.

Each is a process of its own with a limit, the most important first: one that fails or takes too long costs
its own rows only, which are then kept as not measured. The exit code is 0 if every benchmark ended well and
every row has a figure, whatever the figures are.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu import rows

ROOT = Path(__file__).parents[2]
LEAST_S = 20.0  # below that not even the imports are worth it


DECODING = ("decode", "decode_graphs", "decode_fp8")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """seconds: its limit. rows: what it has to measure."""

    module: str
    seconds: float
    rows: tuple[str, ...] = ()
    gpus: int = 1


BENCHMARKS = (
    Benchmark("benchmarks.gpu.proxy", 150, ("bf16_training", "fp8_training", *DECODING)),
    Benchmark("benchmarks.gpu.grpo_step", 130, ("grpo_step",)),
    Benchmark("benchmarks.gpu.fp8_loss", 110, ("fp8_loss",)),
    Benchmark("benchmarks.overlap", 120, gpus=2),
    Benchmark("benchmarks.gpu.train", 70),
    Benchmark("benchmarks.gpu.rollout", 70),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=430.0, help="for all of them (default: 430)")
    limit = parser.parse_args().seconds
    gpus = torch.cuda.device_count()
    if not gpus:
        print("gpu: torch sees no CUDA device here, so nothing was run", file=sys.stderr)
        return 1
    return run([one for one in BENCHMARKS if one.gpus <= gpus], limit)


def run(benchmarks: Sequence[Benchmark], limit: float) -> int:
    """Returns the exit code."""
    end, place, complaints = time.monotonic() + limit, rows.size(), []
    for one in benchmarks:
        print(f"gpu: {one.module}", file=sys.stderr, flush=True)
        before = rows.size()
        why = _run(one.module, min(one.seconds, end - time.monotonic()))
        if why is not None:
            complaints.append(f"{one.module}: {why}")
        kept = {row.name for row in rows.since(before)}
        for name in one.rows:
            if name not in kept:
                rows.missing(name, why or f"{one.module} left no figure")
    found = rows.since(place)
    print(rows.table(found))
    for complaint in complaints:
        print(f"gpu: {complaint}", file=sys.stderr)
    return int(bool(complaints) or any(row.found is None for row in found))


def _run(module: str, seconds: float) -> str | None:
    """What went wrong, if something did."""
    if seconds < LEAST_S:
        return "no time was left for it"
    try:
        done = subprocess.run([sys.executable, "-m", module], cwd=ROOT, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return f"it ended with exit code {done.returncode}; its error is above" if done.returncode else None


if __name__ == "__main__":
    sys.exit(main())
