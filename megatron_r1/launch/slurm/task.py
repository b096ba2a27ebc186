"""One rank as an srun task: `python -m megatron_r1.launch.slurm.task RUN_DIR STAGE`.

RANK and WORLD_SIZE come from SLURM's variables. A rank that was asked to stop ends with 0 rather than 75:
srun --kill-on-bad-exit would take the first 75 for a failure and kill the other ranks. Rank 0 leaves a file
(restarts.mark_interrupted) instead, which says that the stage was interrupted.
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
    """torch's variables (RANK, WORLD_SIZE, ...) from SLURM's."""
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
