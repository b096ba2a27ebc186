"""The `slurm:` section: what `megatron-r1 submit` asks the cluster for.

What the job script sets itself can't be set a second time beside it: `extra` and `environment` refuse it.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from megatron_r1.config.line import Line
from megatron_r1.section import Section

EARLY_S = 60  # by which SLURM's warning may come before its time (sbatch(1), --signal)
MAX_DAYS = 100_000
_MINE = "the ranks' places and the job's log are the script's own"
_SET_BY = {
    "--time": "slurm.time", "-t": "slurm.time",
    "--signal": "slurm.warning_s",
    "--cpus-per-task": "slurm.cpus_per_rank", "-c": "slurm.cpus_per_rank",
    "--nodes": "layout.ranks and slurm.ranks_per_node", "-N": "layout.ranks and slurm.ranks_per_node",
    "--ntasks": "layout.ranks", "-n": "layout.ranks", "--ntasks-per-node": "slurm.ranks_per_node",
    "--output": _MINE, "-o": _MINE, "--open-mode": _MINE,
    "--no-requeue": "slurm.max_restarts",
    "--array": "submit --seeds", "-a": "submit --seeds",
}  # fmt: skip
_SCRIPTS_OWN = {
    "RUN", "STAGE", "PYTHON", "MAX_RESTARTS", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "SRUN_CPUS_PER_TASK", "UID", "EUID", "PPID", "BASHOPTS", "SHELLOPTS",
}  # fmt: skip


def _duration(text: str) -> str:
    found = re.fullmatch(r"(?:([0-9]{1,9})-)?[0-9]{1,9}(:[0-9][0-9]){0,2}", text)
    if not found:
        raise ValueError(f"must look like 30 (minutes), 04:00:00 or 2-00:00:00, got {text!a}")
    if duration_s(text) > MAX_DAYS * 86400:
        raise ValueError(f"must be at most {MAX_DAYS} days, got {text}")
    return text


def duration_s(text: str) -> int:
    """Seconds of a time limit as sbatch(1) reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; 0: no limit."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash:
        hours, minutes, seconds = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    else:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!a} is no name of an environment variable")
    if name in _SCRIPTS_OWN:
        raise ValueError(f"{name} is the job script's own; remove it")
    return name


def _sbatch_option(text: str) -> str:
    if not text.startswith("-"):
        raise ValueError(f"an option begins with -, such as --switches=1, got {text!a}")
    name = re.split(r"[=\s]", text)[0]
    name = name if name.startswith("--") else name[:2]  # -t30
    if name in _SET_BY:
        raise ValueError(f"{name} is in the script already, from {_SET_BY[name]}; remove it here")
    return text


def _srun_option(text: str) -> str:
    if not re.fullmatch(r"--[A-Za-z][\w-]*(=.*)?", text):
        raise ValueError(f"an option of srun is --NAME or --NAME=VALUE, got {text!a}")
    name = text.split("=")[0]
    if name in ("--nodes", "--ntasks", "--ntasks-per-node", "--output", "--open-mode"):
        raise ValueError(f"{name} is in the script already, from {_SET_BY[name]}; remove it here")
    return text


Duration = Annotated[str, AfterValidator(_duration)]
Variable = Annotated[str, AfterValidator(_variable)]
SbatchOption = Annotated[Line, AfterValidator(_sbatch_option)]
SrunOption = Annotated[Line, AfterValidator(_srun_option)]


class Container(Section):
    """A container for the ranks, by the pyxis plugin of srun."""

    image: Line
    """Image, as pyxis takes it: a registry's name or the path of a squashfs file."""
    mounts: tuple[Line, ...] = ()
    """FROM:TO[:FLAGS]; the code, the data and the run directory must be visible inside."""
    options: tuple[SrunOption, ...] = ()
    """More of pyxis' options, such as --container-writable."""


class StageJob(Section):
    """What one stage's job asks for otherwise than the others."""

    time: Duration | None = None
    """Time limit of the job."""
    partition: Line | None = None
    """Partition of the job."""
    qos: Line | None = None
    """Quality of service of the job."""
    extra: tuple[SbatchOption, ...] = ()
    """More #SBATCH options, after those of all stages."""


class Slurm(Section):
    """How a run is submitted. A site keeps its part in one profile file (`submit --site FILE`)."""

    partition: Line | None = None
    """Partition; null: the cluster's default."""
    account: Line | None = None
    """Account that pays."""
    qos: Line | None = None
    """Quality of service."""
    constraint: Line | None = None
    """Features that the nodes must have."""
    reservation: Line | None = None
    """Reservation to run in."""
    time: Duration = "04:00:00"
    """Time limit of each job, above warning_s; a stage that needs longer is requeued and goes on. 0: none."""
    ranks_per_node: int = Field(default=8, ge=1)
    """Ranks a node; layout.ranks over this are the nodes."""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """GPUs a node; null: one a rank; 0: none (a CPU cluster)."""
    cpus_per_rank: int = Field(default=8, ge=1)
    """Cores of each rank, also where srun binds it to them."""
    memory: Line | None = None
    """Memory a node, such as 900G; null: the cluster's default."""
    exclusive: bool = False
    """Whole nodes, shared with nobody."""
    mail_user: Line | None = None
    """Who gets mail."""
    mail_type: Line = "FAIL,END"
    """When there is mail, if mail_user is set."""
    warning_s: int = Field(default=300, ge=10, le=65535)
    """Seconds before the time limit at which the ranks are told to write a checkpoint at the next step."""
    max_restarts: int = Field(default=50, ge=0)
    """How often a stage's job is put back into the queue."""
    extra: tuple[SbatchOption, ...] = ()
    """More #SBATCH options, such as --switches=1."""
    srun: tuple[SrunOption, ...] = ()
    """More options of srun, such as --cpu-bind=cores."""
    modules: tuple[Line, ...] = ()
    """Modules to load."""
    setup: tuple[Line, ...] = ()
    """Shell lines before the ranks start."""
    environment: dict[Variable, Line] = Field(default_factory=dict)
    """Environment variables of the ranks."""
    python: Line | None = None
    """The interpreter that runs the ranks; null: the one that submits."""
    container: Container | None = None
    """A container for the ranks; null: none."""
    template: Line | None = None
    """A template of your own instead of megatron_r1/launch/slurm/stage.sbatch.jinja."""
    stages: dict[str, StageJob] = Field(default_factory=dict)
    """What single stages ask for otherwise, by their names."""

    def nodes(self, ranks: int) -> int:
        return -(-ranks // self.ranks_per_node)

    def problems(self, *, ranks: int, stages: list[str]) -> list[str]:
        """What is wrong with this section in a run: "key: what, the value, the remedy"."""
        found = [
            f"stages.{name}: no such stage; the stages are {', '.join(stages)}"
            for name in self.stages
            if name not in stages
        ]
        if ranks > self.ranks_per_node and ranks % self.ranks_per_node:
            found.append(
                f"ranks_per_node: {self.ranks_per_node} does not divide layout.ranks = {ranks}; every node "
                "must hold as many ranks as the others"
            )
        for key, (time, limit_s) in self._limits(stages).items():
            if limit_s <= self.warning_s:
                found.append(
                    f"{key}: {time} is {limit_s} s, and the ranks are told to stop warning_s = "
                    f"{self.warning_s} s before the limit, so as the job starts; raise it, or lower "
                    "slurm.warning_s"
                )
        return found

    def warnings(self, stages: list[str]) -> list[str]:
        """What the cluster will take but may not be meant."""
        return [
            f"{key}: {time} is {limit_s - self.warning_s} s more than warning_s, and SLURM may warn up to "
            f"{EARLY_S} s early; a job may end before its first step"
            for key, (time, limit_s) in self._limits(stages).items()
            if self.warning_s < limit_s < self.warning_s + EARLY_S
        ]

    def _limits(self, stages: list[str]) -> dict[str, tuple[str, int]]:
        """The time limits in force, in words and in seconds, by the key that sets them; none that is 0."""
        own = {name: job.time for name in stages if (job := self.stages.get(name)) and job.time}
        found = {f"stages.{name}.time": time for name, time in own.items()}
        if len(own) < len(stages):
            found["time"] = self.time
        return {key: (time, limit_s) for key, time in found.items() if (limit_s := duration_s(time))}
