"""The run's jobs in SLURM's queue: lists and cancels them."""

from pathlib import Path

from megatron_r1.launch.slurm import commands, jobs
from megatron_r1.launch.slurm.commands import Job


def known(run_dir: Path) -> dict[int, Job]:
    """The run's jobs that SLURM still remembers, by id."""
    return commands.states([entry.job for entry in jobs.read(run_dir).values()])


def live(run_dir: Path) -> list[Job]:
    """The run's jobs that wait or run."""
    return sorted((job for job in known(run_dir).values() if job.live), key=lambda job: job.id)


def cancel(run_dir: Path) -> str:
    """Cancel the run's jobs; a running one writes a checkpoint first. Returns a line for the user."""
    found = [job.id for job in live(run_dir)]
    if not found:
        return f"{run_dir}: no job of this run is in the queue"
    commands.cancel(found)
    names = ", ".join(map(str, found))
    return f"cancelled {names}; what runs writes a checkpoint and ends, `submit` goes on from there"
