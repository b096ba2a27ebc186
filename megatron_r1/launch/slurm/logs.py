"""`megatron-r1 logs`: shows the newest job's log and a rank's, through tail(1)."""

import subprocess
from pathlib import Path

from megatron_r1.errors import R1Error
from megatron_r1.files.run_directory import LOGS, job_file, rank_log
from megatron_r1.launch.slurm import jobs


def follow_logs(run_dir: Path, *, rank: int | None, stage: str | None, follow: bool, lines: int) -> int:
    """Show the ends of a job's log and of rank 0's, or only of one rank's; returns tail's exit code."""
    wanted = [rank_log(run_dir / LOGS, rank or 0)]
    if rank is None:
        wanted = [*_job_log(run_dir, stage), *wanted]
    there = [path for path in wanted if path.exists()]
    if not there:
        raise R1Error(f"no log yet: {', '.join(map(str, wanted))}; see megatron-r1 status {run_dir}")
    words = ["tail", f"--lines={lines}", *(["-F"] if follow else []), *map(str, there)]
    try:
        return subprocess.run(words).returncode
    except KeyboardInterrupt:  # the usual end of tail -f
        return 0


def _job_log(run_dir: Path, stage: str | None) -> list[Path]:
    """The stage's job log, or the one written last; none before the first job starts."""
    if stage is not None:
        return [job_file(run_dir, stage, "log")]
    found = [path for name in jobs.read(run_dir) if (path := job_file(run_dir, name, "log")).exists()]
    return sorted(found, key=lambda path: path.stat().st_mtime)[-1:]
