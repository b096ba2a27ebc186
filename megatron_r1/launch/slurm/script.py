"""A stage's job script, rendered from the jinja2 template beside this file or from slurm.template."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from megatron_r1.config.line import is_one_line
from megatron_r1.config.slurm import Slurm, StageJob
from megatron_r1.errors import ConfigError
from megatron_r1.files.run_directory import job_file
from megatron_r1.launch import git_snapshot

TEMPLATE = Path(__file__).with_name("stage.sbatch.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScript:
    """The values of a job script.

    directory: the job's working directory; relative paths of the run start there.
    """

    run: str
    stage: str
    run_dir: Path
    directory: Path
    ranks: int
    slurm: Slurm
    commit: str

    def render(self) -> str:
        """The script. ConfigError if the template has a mistake, or a path can't stand in a script."""
        path = Path(self.slurm.template) if self.slurm.template else TEMPLATE
        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
        )
        environment.filters["quote"] = shlex.quote
        values = self._values()
        _require_plain({name: values[name] for name in ("run_dir", "directory", "repository", "python")})
        if path.exists() and not path.is_file():
            raise ConfigError(f"slurm.template: {path} is no file")
        try:
            return environment.from_string(path.read_text(encoding="utf-8")).render(values)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"{path}:{error.lineno}: {error.message}; correct the template") from error
        except (jinja2.TemplateError, TypeError, ArithmeticError) as error:
            raise ConfigError(f"{path}: {error}; correct the template") from error
        except UnicodeDecodeError:
            raise ConfigError(f"slurm.template: {path} is no text in UTF-8") from None
        except PermissionError:
            raise ConfigError(f"slurm.template: {path} can't be read: permission denied") from None
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
            "repository": "" if git_snapshot.is_installed() else str(git_snapshot.REPOSITORY),
            "directory": str(self.directory),
            "run_dir": str(run_dir),
            "log": str(job_file(run_dir, self.stage, "log")),
            "python": slurm.python or sys.executable,
            "nodes": nodes,
            "tasks_per_node": tasks,
            "gpus_per_node": tasks if slurm.gpus_per_node is None else slurm.gpus_per_node,
            "slurm": slurm,
            "time": job.time or slurm.time,
            "partition": job.partition or slurm.partition,
            "qos": job.qos or slurm.qos,
            "extra": [*slurm.extra, *job.extra],
            "container": _container(slurm, self.directory),
        }


def _require_plain(paths: Mapping[str, str]) -> None:
    """Refuse newlines, which would add lines to the script, and backslashes, which SLURM's log paths drop."""
    for name, path in paths.items():
        if not is_one_line(path) or (name == "run_dir" and "\\" in path):
            raise ConfigError(
                f"{name}: a job script can't hold the path {path!a}; use one without control characters "
                "and backslashes"
            )


def _container(slurm: Slurm, directory: Path) -> list[str]:
    """srun's options for pyxis (containers); empty without a container."""
    if slurm.container is None:
        return []
    options = [f"--container-image={slurm.container.image}", *slurm.container.options]
    if slurm.container.mounts:
        options.append(f"--container-mounts={','.join(slurm.container.mounts)}")
    if not any(option.startswith("--container-workdir=") for option in options):
        options.append(f"--container-workdir={directory}")  # pyxis's default is the image's own
    return options
