"""The `slurm:` section: what `megatron-r1 submit` asks the cluster for."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from megatron_r1.config.section import Section


def _one_line(text: str) -> str:
    """What goes into a line of a script must not open another."""
    if not text or any(ord(character) < 32 for character in text):
        raise ValueError(f"must be one line without control characters, got {text!r}")
    return text


def _duration(text: str) -> str:
    if not re.fullmatch(r"(\d+-)?\d+(:\d\d){0,2}", text):
        raise ValueError(f"must look like 30 (minutes), 04:00:00 or 2-00:00:00, got {text!r}")
    return text


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} is no name of an environment variable")
    return name


Line = Annotated[str, AfterValidator(_one_line)]
Duration = Annotated[str, AfterValidator(_duration)]
Variable = Annotated[str, AfterValidator(_variable)]


class Container(Section):
    """A container for the ranks, by the pyxis plugin of srun."""

    image: Line
    """Image, as pyxis takes it: a registry's name or the path of a squashfs file."""
    mounts: tuple[Line, ...] = ()
    """FROM:TO[:FLAGS]; the code, the data and the run directory must be visible inside."""
    options: tuple[Line, ...] = ()
    """More of pyxis' options, such as --container-writable."""


class StageJob(Section):
    """What one stage's job asks for otherwise than the others."""

    time: Duration | None = None
    """Time limit of the job."""
    partition: Line | None = None
    """Partition of the job."""
    qos: Line | None = None
    """Quality of service of the job."""
    extra: tuple[Line, ...] = ()
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
    """Time limit of each job; a stage that needs longer is requeued and goes on."""
    ranks_per_node: int = Field(default=8, ge=1)
    """Ranks a node; layout.ranks over this are the nodes."""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """GPUs a node; null: one a rank; 0: none (a CPU cluster)."""
    cpus_per_rank: int = Field(default=8, ge=1)
    """Cores of each rank."""
    memory: Line | None = None
    """Memory a node, such as 900G; null: the cluster's default."""
    exclusive: bool = False
    """Whole nodes, shared with nobody."""
    mail_user: Line | None = None
    """Who gets mail."""
    mail_type: Line = "FAIL,END"
    """When there is mail, if mail_user is set."""
    warning_s: int = Field(default=300, ge=10)
    """Seconds before the time limit at which the ranks are told to write a checkpoint at the next step."""
    max_restarts: int = Field(default=50, ge=0)
    """How often a stage's job is put back into the queue."""
    extra: tuple[Line, ...] = ()
    """More #SBATCH options, such as --switches=1."""
    srun: tuple[Line, ...] = ()
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
    """A template of your own instead of slurm/stage.sbatch.jinja."""
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
        return found


class Site(Section):
    """A site's profile file: what all its runs ask for, below what a run says itself."""

    slurm: Slurm = Slurm()
    """The site's part of the section."""
