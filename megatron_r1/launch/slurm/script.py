"""A stage's job script from its jinja2 template in slurm/: nothing that a person could not have written."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from megatron_r1.errors import ConfigError
from megatron_r1.launch import code
from megatron_r1.launch.slurm import jobs
from megatron_r1.launch.slurm.section import Slurm, StageJob

TEMPLATE = code.REPOSITORY / "slurm" / "stage.sbatch.jinja"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScript:
    """What a template is filled with."""

    run: str
    stage: str
    run_dir: Path
    ranks: int
    slurm: Slurm
    commit: str

    def render(self) -> str:
        """The script. ConfigError if the template has a mistake."""
        path = Path(self.slurm.template) if self.slurm.template else TEMPLATE
        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
        )
        environment.filters["quote"] = shlex.quote
        try:
            return environment.from_string(path.read_text(encoding="utf-8")).render(self._values())
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"{path}:{error.lineno}: {error.message}; correct the template") from error
        except jinja2.UndefinedError as error:
            raise ConfigError(f"{path}: {error.message}; correct the template") from error
        except FileNotFoundError:
            raise ConfigError(f"slurm.template: no such file: {path}") from None

    def _values(self) -> dict[str, Any]:
        slurm, job = self.slurm, self.slurm.stages.get(self.stage, StageJob())
        nodes = slurm.nodes(self.ranks)
        tasks = self.ranks // nodes
        run_dir = self.run_dir.resolve()
        return {
            "run": self.run,
            "stage": self.stage,
            "commit": self.commit,
            "repository": str(code.REPOSITORY),
            "run_dir": str(run_dir),
            "log": str(jobs.log_path(run_dir, self.stage)),
            "python": slurm.python or sys.executable,
            "nodes": nodes,
            "tasks_per_node": tasks,
            "gpus_per_node": tasks if slurm.gpus_per_node is None else slurm.gpus_per_node,
            "slurm": slurm,
            "time": job.time or slurm.time,
            "partition": job.partition or slurm.partition,
            "qos": job.qos or slurm.qos,
            "extra": [*slurm.extra, *job.extra],
            "container": _container(slurm),
        }


def _container(slurm: Slurm) -> list[str]:
    """srun's options for pyxis; none without a container."""
    if slurm.container is None:
        return []
    options = [f"--container-image={slurm.container.image}", *slurm.container.options]
    if slurm.container.mounts:
        options.append(f"--container-mounts={','.join(slurm.container.mounts)}")
    return options
