"""`megatron-r1 convert`: Hugging Face's files in and out, from the command line.

One process, or several ranks that share the files: `--nproc N` starts them here, and where RANK and
WORLD_SIZE are set already (srun, torchrun) this process is one of them.
"""

import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_r1.errors import ConfigError, R1Error
from megatron_r1.launch import cores
from megatron_r1.launch.ranks import run_ranks
from megatron_r1.report.transfer import Transfer

SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

log = logging.getLogger(__name__)


def size_in_bytes(text: str) -> int:
    """5GB, 200MB, 1GiB. ConfigError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in SIZES:
        raise ConfigError(f"{text!r} is no size; write it as 5GB or 200MB")
    size = int(float(found[1]) * SIZES[found[2].upper()])
    if size < 1:
        raise ConfigError(f"{text!r} leaves no room for a tensor")
    return size


def import_(source: Path, target: Path, *, dtype: str | None) -> list[str]:
    from megatron_r1.backend.hf_import import import_model

    with Transfer("import", is_main=_is_main()) as transfer:
        return import_model(source, target, precision=dtype, progress=transfer.update)  # type: ignore[arg-type]


def export(source: Path, target: Path, *, dtype: str | None, fp8: bool, max_shard_size: str) -> list[str]:
    import torch

    from megatron_r1.backend.hf_export import ExportOptions, export_model

    dtypes = {None: None, "bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
    options = ExportOptions(dtypes[dtype], fp8, size_in_bytes(max_shard_size))
    with Transfer("export", is_main=_is_main()) as transfer:
        return export_model(source, target, options, progress=transfer.update)


@dataclass(frozen=True, slots=True)
class Job:
    """One command: what to do on every rank, and the arguments that start another process at the same."""

    run: Callable[[], list[str]]
    argv: Sequence[str]
    done: str  # what to print at the end


def run_job(job: Job, *, nproc: int) -> int:
    """On this process, on ranks started here, or as the rank that this process is. Returns the exit code."""
    if "WORLD_SIZE" not in os.environ and nproc > 1:
        return _launch(job.argv, nproc)
    try:
        with _joined():
            found = job.run()
    except R1Error as error:
        if _world_size() == 1:
            raise
        sys.stderr.write(f"error: {error}\n")
        _leave(error.exit_code)
    except Exception:  # the outermost frame: nothing is swallowed, only the teardown is skipped
        if _world_size() == 1:
            raise
        traceback.print_exc()
        _leave(1)
    if _is_main():
        for text in found:
            print(f"warning: {text}", file=sys.stderr)
        print(job.done)
    return 0


def _launch(argv: Sequence[str], nproc: int) -> int:
    env = dict(os.environ)
    env.update(cores.thread_variables(env, ranks=nproc, cores=cores.usable_cores()))
    with tempfile.TemporaryDirectory(prefix="megatron-r1-convert-") as logs:
        command = [sys.executable, "-m", "megatron_r1", "convert", *argv]
        return run_ranks(command, ranks=nproc, log_dir=Path(logs), env=env)


@contextmanager
def _joined() -> Iterator[None]:
    """Megatron's process groups for ranks that hold no model: all of them replicas of one another."""
    warnings.filterwarnings("ignore", module="megatron")
    logging.getLogger("megatron").setLevel(logging.ERROR)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import torch.distributed as dist

    from megatron_r1.backend import parallel
    from megatron_r1.backend.layout import Layout

    if _world_size() == 1:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel.start(Layout(ranks=_world_size()))
    try:
        yield
    finally:
        if _world_size() == 1:  # ranks of a failed job must not wait for one another
            parallel.stop()
    parallel.stop()


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _leave(exit_code: int) -> Any:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
