"""`megatron-r1 submit`: checks the configuration, writes the scripts, and queues one job for each stage.

The first job is held until SLURM has accepted the whole chain. So a chain is never half queued, and the
results that `--from` discards are removed only once the jobs that replace them are queued.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from megatron_r1.check.findings import findings, warnings
from megatron_r1.config import Loaded, refuse
from megatron_r1.errors import R1Error
from megatron_r1.files.run_directory import job_file, read_artifact
from megatron_r1.launch import git_snapshot, local
from megatron_r1.launch.slurm import commands, jobs, queue
from megatron_r1.launch.slurm.jobs import Submitted
from megatron_r1.launch.slurm.script import StageScript
from megatron_r1.run import chain, lineage
from megatron_r1.run.config import RunConfig, load_run
from megatron_r1.run.continuing import config_changes
from megatron_r1.runtime import run_lock

SITE_VARIABLE = "MEGATRON_R1_SITE"
SITE_FILE = Path("~/.config/megatron_r1/site.yaml")

log = logging.getLogger(__name__)


class AlreadySubmittedError(R1Error):
    """Jobs of this run are still in the queue."""

    exit_code = 7


def submit(
    config_path: Path,
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    from_stage: str | None = None,
    run_dir: Path | None = None,
    site: Path | None = None,
) -> str:
    """Submit the stages that are not done; returns lines for the user.

    seed: replaces the configuration's, in a run directory of its own.
    site: the cluster's profile; by default what MEGATRON_R1_SITE names or ~/.config/megatron_r1/site.yaml.
    """
    loaded, run_dir = _load(config_path, overrides, seed=seed, run_dir=run_dir, site=site)
    refuse(findings(loaded))
    run = loaded.value
    scripts = _rendered(run, run_dir, from_stage)
    if not scripts:
        return _nothing_to_do(run_dir)
    run_lock.make_run_dir(run_dir)
    jobs.folder(run_dir).mkdir(exist_ok=True)
    for text in scripts.values():  # SLURM doesn't check a held job when it is submitted
        commands.would_start(text)
    _refuse_second(run_dir)  # before the lock too: this error names the job that holds it
    with run_lock.hold(run_dir):
        _refuse_second(run_dir)
        local.write_resolved(run, run_dir)
        git_snapshot.keep(jobs.folder(run_dir))
        for name, text in scripts.items():
            job_file(run_dir, name, "sbatch").write_text(text, encoding="utf-8")
        submitted = _submit_chain(run_dir, list(scripts))
        if from_stage is not None:
            chain.forget_from(run, run_dir, from_stage)
    commands.release(next(iter(submitted.values())).job)
    return "\n".join(
        [
            *(f"{name}: job {entry.job}" for name, entry in submitted.items()),
            f"see: megatron-r1 status {run_dir}",
        ]
    )


def dry_run(
    config_path: Path,
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    from_stage: str | None = None,
    run_dir: Path | None = None,
    site: Path | None = None,
) -> Iterator[str]:
    """What `submit` would do, as parts to print: the scripts, then the findings of the checks and of SLURM.

    Nothing is written and nothing is queued. Missing weights and data are findings rather than errors, as
    they may be on the cluster only. Raises SlurmError at the end if SLURM refuses a script.
    """
    loaded, run_dir = _load(config_path, overrides, seed=seed, run_dir=run_dir, site=site)
    refuse(findings(loaded, files=False))
    scripts = _rendered(loaded.value, run_dir, from_stage)
    if not scripts:
        yield _nothing_to_do(run_dir)
    for name, text in scripts.items():
        yield f"### {name}.sbatch\n{text}"
    yield from (f"### submit would refuse this: {finding}" for finding in findings(loaded))
    yield from _test_only(scripts)


def _test_only(scripts: Mapping[str, str]) -> Iterator[str]:
    """The result of `sbatch --test-only` for each script, where SLURM can be reached."""
    silent = commands.unreachable()
    if silent is not None:
        yield f"### SLURM was not asked: {silent}"
        return
    for name, text in scripts.items():
        yield f"### {name}: sbatch --test-only says: {commands.would_start(text)}"


def _load(
    config_path: Path, overrides: Sequence[str], *, seed: int | None, run_dir: Path | None, site: Path | None
) -> tuple[Loaded[RunConfig], Path]:
    """The configuration and the run directory; a given seed changes both."""
    loaded = load_run(config_path, overrides=overrides, site=site or _own_site())
    if seed is not None:
        suffix = f"_seed{seed}"
        run_dir = None if run_dir is None else run_dir.with_name(run_dir.name + suffix)
        overrides = [*overrides, f"seed={seed}", f"name={loaded.value.name}{suffix}"]
        loaded = load_run(config_path, overrides=overrides, site=site or _own_site())
    return loaded, run_dir or Path(loaded.value.run_dir, loaded.value.name)


def _rendered(run: RunConfig, run_dir: Path, from_stage: str | None) -> dict[str, str]:
    """The scripts of the stages that have to run, by stage name."""
    local.check_from(from_stage, run)
    for text in warnings(run):
        log.warning(text)
    stages = stages_to_run(run, run_dir, from_stage)
    return {name: script.render() for name, script in _scripts(run, run_dir, stages).items()}


def _nothing_to_do(run_dir: Path) -> str:
    return f"every stage of {run_dir} is done; --from STAGE does them again"


def _own_site() -> Path | None:
    named = os.environ.get(SITE_VARIABLE)
    if named is not None:
        return Path(named)
    own = SITE_FILE.expanduser()
    return own if own.is_file() else None


def stages_to_run(run: RunConfig, run_dir: Path, from_stage: str | None) -> list[str]:
    """The stages from `from_stage` or the first unfinished one on, whichever comes first.

    A finished stage whose configuration or files have changed since counts as unfinished: its job reports
    what changed.
    """
    names = list(run.stages)
    first = 0
    while first < len(names) and names[first] != from_stage and _is_done(run, run_dir / names[first]):
        first += 1
    return names[first:]


def _is_done(run: RunConfig, directory: Path) -> bool:
    done = read_artifact(directory)
    if done is None:
        return False
    if not lineage.is_older(done.inputs):
        now = lineage.own_inputs(run, directory.name, directory.parent)
        if any(done.inputs.get(name) != value for name, value in now.items()):
            return False
    stage = directory.name
    return not config_changes(done.config, run.decisive(stage), name=stage, section=run.stages[stage])


def _scripts(run: RunConfig, run_dir: Path, stages: Sequence[str]) -> dict[str, StageScript]:
    version = git_snapshot.commit()
    return {
        name: StageScript(
            run=run.name,
            stage=name,
            run_dir=run_dir,
            directory=Path.cwd(),
            ranks=run.layout.ranks,
            slurm=run.slurm,
            commit=version,
        )
        for name in stages
    }


def _refuse_second(run_dir: Path) -> None:
    live = queue.live(run_dir)
    if live:
        listed = ", ".join(f"{job.id} ({job.state.lower()})" for job in live)
        raise AlreadySubmittedError(
            f"{run_dir}: jobs of this run are in the queue: {listed}; wait for them, take them out "
            f"(megatron-r1 cancel {run_dir}), or give this run another name"
        )


def _submit_chain(run_dir: Path, stages: Sequence[str]) -> dict[str, Submitted]:
    """Submit all jobs, the first one held; if SLURM refuses one, the others are cancelled."""
    submitted: dict[str, Submitted] = {}
    before: int | None = None
    try:
        for name in stages:
            script = job_file(run_dir, name, "sbatch")
            before = commands.submit(script, after=before, hold=before is None)
            submitted[name] = Submitted(name, before, time.time())
    except commands.SlurmError:
        commands.cancel([entry.job for entry in submitted.values()])
        raise
    jobs.write(run_dir, {**jobs.read(run_dir), **submitted})
    return submitted
