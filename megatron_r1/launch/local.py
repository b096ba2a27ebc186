"""`megatron-r1 run`: check the configuration, prepare the run directory, start the ranks on this machine.

No rank is started for a wrong configuration or in a directory that another run holds. The ranks read the
resolved configuration in the run directory, so an edit of the YAML during a run changes nothing.
"""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_r1.check.findings import findings, warnings
from megatron_r1.config import refuse, resolved
from megatron_r1.errors import ConfigError
from megatron_r1.files import run_directory
from megatron_r1.files.atomic import write_whole
from megatron_r1.launch.supervisor import run_ranks
from megatron_r1.run.config import RunConfig, load_run
from megatron_r1.runtime import cores, env_vars, run_lock

log = logging.getLogger(__name__)


def launch(
    config_path: Path,
    *,
    overrides: Sequence[str] = (),
    from_stage: str | None = None,
    run_dir: Path | None = None,
    profile: bool = False,
) -> int:
    """Run the stages of a configuration here; returns the run's exit code, 75 if it can be continued.

    run_dir: the run's directory; by default the configuration's run_dir/name.
    from_stage: run this stage and all later ones again. profile: profile one step of every stage.
    Raises ConfigError, or RunLockedError if another run works in the directory.
    """
    loaded = load_run(config_path, overrides=overrides)
    refuse(findings(loaded))
    run = loaded.value
    check_from(from_stage, run)
    for text in warnings(run):
        log.warning(text)
    run_dir = run_dir or Path(run.run_dir, run.name)
    run_lock.make_run_dir(run_dir)
    with run_lock.hold(run_dir):
        write_resolved(run, run_dir)
        return _start_ranks(run_dir, ranks=run.layout.ranks, from_stage=from_stage, profile=profile)


def check_from(from_stage: str | None, run: RunConfig) -> None:
    """Raise ConfigError if the run has no such stage."""
    if from_stage is not None and from_stage not in run.stages:
        raise ConfigError(f"--from {from_stage}: no such stage; the stages are {', '.join(run.stages)}")


def write_resolved(run: RunConfig, run_dir: Path) -> None:
    """Write the configuration with every default filled in; this file is what the ranks read."""
    write_whole(run_dir / run_directory.RESOLVED, resolved(run))


def _start_ranks(run_dir: Path, *, ranks: int, from_stage: str | None, profile: bool) -> int:
    return run_ranks(
        [sys.executable, "-m", "megatron_r1.launch.rank", str(run_dir)],
        ranks=ranks,
        log_dir=run_dir / run_directory.LOGS,
        env=_environment(ranks, from_stage=from_stage, profile=profile),
        handles_signals=True,
    )


def _environment(ranks: int, *, from_stage: str | None, profile: bool) -> dict[str, str]:
    env = {**os.environ, env_vars.LOCKED: "1"}
    env.update(cores.thread_variables(env, ranks=ranks, cores=cores.usable_cores()))
    env.pop(env_vars.FROM_STAGE, None)
    if from_stage is not None:
        env[env_vars.FROM_STAGE] = from_stage
    if profile:
        env |= {env_vars.PROFILE: "1", "KINETO_LOG_LEVEL": "99"}  # torch's profiler is talkative
    return env
