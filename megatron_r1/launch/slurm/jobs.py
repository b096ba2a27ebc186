"""Which job does which stage: RUN/slurm/jobs.json, written by `submit`, read by everybody else."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER, NAME = "slurm", "jobs.json"


@dataclass(frozen=True, slots=True)
class Submitted:
    """A stage's newest job; time is in seconds since the epoch."""

    stage: str
    job: int
    time: float


def folder(run_dir: Path) -> Path:
    """Scripts, job logs and attempts of a run."""
    return run_dir / FOLDER


def script_path(run_dir: Path, stage: str) -> Path:
    return folder(run_dir) / f"{stage}.sbatch"


def log_path(run_dir: Path, stage: str) -> Path:
    return folder(run_dir) / f"{stage}.log"


def read(run_dir: Path) -> dict[str, Submitted]:
    """By stage; empty if nothing was submitted."""
    path = folder(run_dir) / NAME
    if not path.exists():
        return {}
    return {entry["stage"]: Submitted(**entry) for entry in json.loads(path.read_text())}


def write(run_dir: Path, submitted: dict[str, Submitted]) -> None:
    path = folder(run_dir) / NAME
    new = path.with_suffix(".new")
    new.write_text(json.dumps([asdict(entry) for entry in submitted.values()], indent=2))
    new.replace(path)
