"""`megatron-r1 convert`: Hugging Face's files in and out, from the command line.

One process, or several ranks that share the files: `--nproc N` starts them here; a task of srun's is one of
them, and so is a process for which RANK and WORLD_SIZE are set (torchrun).
"""

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_r1.errors import ConfigError, GateError, R1Error
from megatron_r1.launch.supervisor import run_ranks
from megatron_r1.runtime import cores
from megatron_r1.tracking.transfer import Transfer

if TYPE_CHECKING:
    from megatron_r1.config.layout import Layout

DEGREES = ("tensor", "pipeline", "expert")
log = logging.getLogger(__name__)


def import_(source: Path, target: Path, *, dtype: str | None) -> list[str]:
    from megatron_r1.backend.hf.import_checkpoint import import_model

    with Transfer("import", is_main=_is_main()) as transfer:
        return import_model(source, target, precision=dtype, progress=transfer.update)  # type: ignore[arg-type]


def export(source: Path, target: Path, *, dtype: str | None, fp8: bool, max_shard_size: str) -> list[str]:
    from megatron_r1.backend.hf.export_checkpoint import export_model, export_options

    options = export_options(dtype=dtype, fp8=fp8, max_shard_size=max_shard_size)
    with Transfer("export", is_main=_is_main()) as transfer:
        export_model(source, target, options, progress=transfer.update)
    return []


def verify(
    source: Path,
    checkpoint: Path,
    *,
    prompts: Path | None,
    tolerance: float | None,
    degrees: Mapping[str, int],
) -> list[str]:
    """Prints the comparison; GateError where the two differ."""
    from megatron_r1.backend.hf import verify as hf_verify
    from megatron_r1.backend.hf.describe import checkpoint_at
    from megatron_r1.backend.hf.text_ids import compare_text_ids
    from megatron_r1.data.tokenizers.tokenizer_files import TOKENIZER

    tolerance = hf_verify.TOLERANCE if tolerance is None else tolerance
    found = hf_verify.verify(
        source,
        checkpoint_at(checkpoint),
        read_prompts(prompts, source),
        layout=layout_of(degrees),
        tolerance=tolerance,
    )
    if found is not None:
        print(found.text())
        ids = compare_text_ids(source)
        print(ids if isinstance(ids, str) else ids.text())
        if not isinstance(ids, str) and ids.misread is not None:
            raise GateError(f"{source}: its tokenizer gives other ids here than by its own {TOKENIZER}")
        if found.first_different is not None:
            raise GateError(f"{checkpoint} does not compute what {source} computes with transformers")
    return []


def inspect(path: Path, *, as_yaml: bool) -> str:
    """What is at the path, whichever side it belongs to; as_yaml: the model section of a run only."""
    if (path / "config.json").is_file():
        from megatron_r1.huggingface import describe

        return describe.yaml_at(path) if as_yaml else describe.describe(path)
    from megatron_r1.backend.hf import describe as hf_describe

    return hf_describe.yaml_at(path) if as_yaml else hf_describe.describe(path)


def read_prompts(path: Path | None, source: Path) -> list[list[int]]:
    """A prompt a line, as text or as a JSON list of token ids; without a file, two of random tokens."""
    from megatron_r1.huggingface.prompts import prompts_of_file, random_prompts

    return random_prompts(source) if path is None else prompts_of_file(path, source)


def parse_degrees(text: str | None) -> dict[str, int]:
    """tensor=2,pipeline=2 -> {"tensor": 2, "pipeline": 2}."""
    found = dict(part.split("=", 1) for part in text.split(",") if "=" in part) if text else {}
    wrong = [name for name in found if name not in DEGREES or not found[name].isdigit()]
    if wrong or (text and len(found) < len(text.split(","))):
        raise ConfigError(f"--layout {text}: write it as tensor=2,pipeline=2; known are {', '.join(DEGREES)}")
    return {name: int(value) for name, value in found.items()}


def ranks_of(degrees: Mapping[str, int]) -> int:
    """Ranks that the layout needs: experts are spread over the ranks that share a layer's other weights."""
    return max(degrees.get("tensor", 1), degrees.get("expert", 1)) * degrees.get("pipeline", 1)


def layout_of(degrees: Mapping[str, int]) -> "Layout":
    from megatron_r1.config.layout import Layout

    return Layout.model_validate({"ranks": ranks_of(degrees), **degrees})


@dataclass(frozen=True, slots=True)
class Job:
    """One command: what to do on every rank, and the arguments that start another process at the same."""

    run: Callable[[], list[str]]
    argv: Sequence[str]
    done: str  # what to print at the end; empty: nothing
    degrees: Mapping[str, int] = field(default_factory=dict)  # of the layout, for jobs with a live model


def run_job(job: Job, *, nproc: int) -> int:
    """On this process, on ranks started here, or as the rank that this process is. Returns the exit code."""
    if "WORLD_SIZE" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        os.environ.update(_place_in_step(os.environ))
    if "WORLD_SIZE" not in os.environ and nproc > 1:
        return _launch(job.argv, nproc)
    try:
        with _joined(job.degrees):
            found = job.run()
    except R1Error as error:
        if _world_size() == 1:
            raise
        sys.stderr.write(f"error: {error}\n")
        _leave(error.exit_code)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the outermost frame; torch's CheckpointException is no Exception
        if _world_size() == 1:
            raise
        traceback.print_exc()
        _leave(1)
    if _is_main():
        for text in found:
            print(f"warning: {text}", file=sys.stderr)
        if job.done:
            print(job.done)
    return 0


def _place_in_step(slurm: Mapping[str, str]) -> dict[str, str]:
    """What torch reads, of one of srun's tasks."""
    from megatron_r1.launch.slurm import commands, task

    return {
        **task.place(slurm),
        "MASTER_ADDR": commands.address_of_first(slurm["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(20000 + int(slurm["SLURM_JOB_ID"]) % 12000),
    }


def _launch(argv: Sequence[str], nproc: int) -> int:
    env = dict(os.environ)
    env.update(cores.thread_variables(env, ranks=nproc, cores=cores.usable_cores()))
    with tempfile.TemporaryDirectory(prefix="megatron-r1-convert-") as logs:
        command = [sys.executable, "-m", "megatron_r1", "convert", *argv]
        return run_ranks(command, ranks=nproc, log_dir=Path(logs), env=env)


@contextmanager
def _joined(degrees: Mapping[str, int]) -> Iterator[None]:
    """Megatron's process groups. Ranks that hold no model are all replicas of one another."""
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    from megatron_r1.backend.parallel import process_groups
    from megatron_r1.config.layout import Layout

    if _world_size() == 1:
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    process_groups.start(Layout.model_validate({"ranks": _world_size(), **degrees}))
    try:
        yield
    finally:
        if _world_size() == 1:  # ranks of a failed job must not wait for one another
            process_groups.stop()
    process_groups.stop()


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _leave(exit_code: int) -> Any:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
