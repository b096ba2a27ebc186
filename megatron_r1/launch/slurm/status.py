"""`megatron-r1 status`: the state of a run's stages, from SLURM's queue and the run's files.

Runs that `megatron-r1 run` started have no jobs; their steps and rewards are shown all the same.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from megatron_r1.errors import R1Error
from megatron_r1.files.run_directory import ARTIFACT, LOGS, METRICS, RESOLVED, job_file, read_resolved
from megatron_r1.launch.slurm import commands, jobs, queue, restarts
from megatron_r1.launch.slurm.commands import Job
from megatron_r1.runtime import heartbeat, position, run_lock
from megatron_r1.tracking.jsonl import read_metrics

STEPS_FOR_ETA = 10
_HEADINGS = ("stage", "job", "state", "step", "reward", "left")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is. total is None while it is unknown; left_s is None before the first step."""

    step: int
    total: int | None
    reward: float | None
    left_s: float | None


def status(run_dir: Path) -> str:
    """A table of the stages, and the last error of each failed one."""
    run = read_resolved(run_dir)
    if not run:
        raise R1Error(f"{run_dir}: no {RESOLVED}, so no run; give the folder that holds the stages' folders")
    submitted = jobs.read(run_dir)
    known = queue.known(run_dir) if submitted and commands.available() else {}
    rows: list[tuple[str, ...]] = [_HEADINGS]
    errors: list[str] = []
    for name, stage in run["stages"].items():
        job = submitted.get(name)
        state = _state(run_dir, name, None if job is None else known.get(job.job), submitted=job is not None)
        found = _progress(run_dir, name, stage, done=state == "done")
        rows.append((name, str(job.job) if job else "-", state, *_cells(found, running="running" in state)))
        error = None if state == "done" else _last_error(run_dir, name)
        errors += [f"{name}: {error}"] if error else []
    title = f"{run['name']} in {run_dir}, {run['layout']['ranks']} ranks"
    return "\n".join([title, *_table(rows), *errors])


def _state(run_dir: Path, stage: str, job: Job | None, *, submitted: bool) -> str:
    """The table's cell: done, running, waiting with the reason, or how the stage ended."""
    if (run_dir / stage / ARTIFACT).exists():
        return "done"
    if job is not None and job.state == "RUNNING":
        return f"running for {job.elapsed} on {job.nodes}{_restarts(run_dir, stage, job.id)}"
    if job is not None and job.live:
        return f"{job.state.lower()} ({job.reason}){_restarts(run_dir, stage, job.id)}"
    owner = run_lock.holder(run_dir)
    beat = heartbeat.read(run_dir / LOGS, 0)
    if owner is not None and beat is not None and beat.stage == stage:
        return f"running ({owner}), last step {max(0.0, time.time() - beat.time):.0f} s ago"
    if job is not None:
        return f"{job.state.lower()}" + (f" ({job.reason})" if job.reason not in ("None", "") else "")
    ended = [one for one in restarts.attempts(run_dir) if one.stage == stage]
    if ended:
        return ended[-1].outcome
    begun = (run_dir / stage).is_dir()
    return "submitted, forgotten by SLURM" if submitted else "stopped" if begun else "not begun"


def _restarts(run_dir: Path, stage: str, job: int) -> str:
    count = sum(one.stage == stage and one.job == str(job) for one in restarts.attempts(run_dir))
    return f", restart {count}" if count else ""


def _progress(run_dir: Path, name: str, stage: dict[str, Any], *, done: bool) -> Progress:
    """With `steps: 0` the epochs decide the total, which only the running or finished stage can tell."""
    lines = list(read_metrics(run_dir / name / METRICS))
    step = int(lines[-1]["step"]) if lines else 0
    now = position.read(run_dir / LOGS)
    said = now.total if now is not None and now.label == name else None
    total = stage.get("steps") or (step if done and "steps" in stage else said)
    rewards = [line["train/reward"] for line in lines if "train/reward" in line]
    seconds = [line["time/step_s"] for line in lines[-STEPS_FOR_ETA:] if "time/step_s" in line]
    left = (total - step) * sum(seconds) / len(seconds) if total and seconds else None
    return Progress(step, total, rewards[-1] if rewards else None, left)


def _cells(found: Progress, *, running: bool) -> tuple[str, str, str]:
    step = (str(found.step) if found.step else "") if found.total is None else f"{found.step}/{found.total}"
    reward = "" if found.reward is None else f"{found.reward:.3f}"
    left = str(timedelta(seconds=round(found.left_s))) if running and found.left_s is not None else ""
    return step, reward, left


def _last_error(run_dir: Path, stage: str) -> str | None:
    """The last error line of the job's log."""
    path = job_file(run_dir, stage, "log")
    if not path.exists():
        return None
    lines = path.read_text(errors="replace").splitlines()
    found = [line for line in lines if "error: " in line and not line.startswith("srun: ")]
    return found[-1] if found else None


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
