"""The run's jobs: RUN/slurm/jobs.json maps stages to job ids; `submit` writes it, other commands read it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_r1.errors import DataError
from megatron_r1.files import run_directory
from megatron_r1.files.atomic import write_whole
from megatron_r1.files.json_reader import read_json, record_of


@dataclass(frozen=True, slots=True)
class Submitted:
    """A stage's newest job; time is in seconds since the epoch."""

    stage: str
    job: int
    time: float


def folder(run_dir: Path) -> Path:
    """The folder of a run's job scripts, job logs and attempts."""
    return run_dir / run_directory.SLURM


def read(run_dir: Path) -> dict[str, Submitted]:
    """The jobs by stage; empty if nothing was submitted."""
    path = folder(run_dir) / run_directory.JOBS
    if not path.exists():
        return {}
    remedy = "remove the file; cancel jobs that still wait with scancel"
    found = read_json(path, error=DataError, remedy=remedy)
    if not isinstance(found, list):
        raise DataError(f"{path}: a list of jobs is needed, not a {type(found).__name__}; {remedy}")
    known = [record_of(Submitted, one, where=str(path), error=DataError, remedy=remedy) for one in found]
    return {entry.stage: entry for entry in known}


def write(run_dir: Path, submitted: dict[str, Submitted]) -> None:
    path = folder(run_dir) / run_directory.JOBS
    write_whole(path, json.dumps([asdict(entry) for entry in submitted.values()], indent=2))
