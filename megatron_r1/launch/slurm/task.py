"""One srun task, one rank: `python -m megatron_r1.launch.slurm.task RUN_DIR STAGE`.

The rank's place comes from SLURM, so that rank order is SLURM's order. A rank that was asked to stop ends
with 0 here, not with 75: srun --kill-on-bad-exit would take the first one's 75 for a failure and kill the
others over it. The file that rank 0 leaves says that all of them agreed to stop.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from megatron_r1.errors import Interrupted
from megatron_r1.launch import rank
from megatron_r1.launch.slurm import restarts
from megatron_r1.runtime import env_vars


def place(slurm: Mapping[str, str]) -> dict[str, str]:
    """What torch and the pipeline read, from what SLURM sets."""
    return {
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "WORLD_SIZE": slurm["SLURM_NTASKS"],
        "LOCAL_WORLD_SIZE": str(int(slurm["SLURM_NTASKS"]) // int(slurm["SLURM_JOB_NUM_NODES"])),
    }


def main(run_dir: Path, stage: str) -> int:
    """Run this rank's share of one stage."""
    os.environ.update(place(os.environ), PYTHONUNBUFFERED="1", **{env_vars.ONLY_STAGE: stage})
    now, node = time.strftime("%Y-%m-%d %H:%M:%S"), os.environ["SLURMD_NODENAME"]
    this = restarts.current(os.environ)
    start = f"job {this.job}, restart {this.restart}, {now}"
    sys.stdout.write(f"=== rank {os.environ['RANK']} on {node}, {start}\n")
    sys.stdout.flush()
    code = rank.main(run_dir)
    if code != Interrupted.exit_code:
        return code
    if os.environ["RANK"] == "0":
        restarts.mark_interrupted(run_dir, this)
    return 0


if __name__ == "__main__":
    rank.leave(main(Path(sys.argv[1]), sys.argv[2]))
