"""Checkpoints that can't be written or must not be read."""

import contextlib
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_r1.backend.checkpoint import save_load
from megatron_r1.backend.checkpoint.files import numbered
from megatron_r1.config.layout import Layout
from megatron_r1.errors import CheckpointError
from tests.distributed.scenarios import models
from tests.distributed.scenarios.train import logprob_values, steps


@contextlib.contextmanager
def small_files(rank: int, *, limit_bytes: int) -> Iterator[None]:
    """Within: no file of that rank grows beyond the limit, whoever runs the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if dist.get_rank() == rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def small_disk(folder: Path, *, size_bytes: int) -> Iterator[bool]:
    """Within: a file system of that size in the folder; False where mounting one is not allowed."""
    mounted = [False]
    if dist.get_rank() == 0:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        mounted = [subprocess.run(command, capture_output=True, check=False).returncode == 0]
    dist.broadcast_object_list(mounted, src=0)
    try:
        yield mounted[0]
    finally:
        dist.barrier()
        if mounted[0] and dist.get_rank() == 0:
            subprocess.run(["umount", str(folder)], check=True)


def rank_that_cannot_write(layout: Layout, shared: Path, *, rank: int) -> dict[str, Any]:
    """One rank's files can't grow: what all ranks say, what is left, and whether all goes on."""
    root = shared / f"rank_{rank}_cannot_write"
    policy = _trained(layout)
    save_load.save(numbered(root, 1), policy, {"step": 1})
    dist.barrier()
    with small_files(rank, limit_bytes=20_000):
        error = _error(lambda: save_load.save(numbered(root, 2), policy, {"step": 2}))
    left = sorted(path.name for path in root.iterdir())
    dist.barrier()
    save_load.save(numbered(root, 3), policy, {"step": 3})
    return {
        "error": error,
        "left": left,
        "latest": str(save_load.latest(root)),
        "state": policy.load(root / "step_00000003"),
    }


def full_disk(layout: Layout, shared: Path) -> dict[str, Any]:
    """ENOSPC, for sizes at which the tensors, their index or only the manifest do not fit any more."""
    policy = _trained(layout)
    found = {}
    for size_bytes in (100_000, 1_500_000, 2_900_000):
        with small_disk(shared / f"disk_{size_bytes}", size_bytes=size_bytes) as mounted:
            if not mounted:
                return {}
            root = shared / f"disk_{size_bytes}" / "run"
            error = _error(lambda root=root: save_load.save(numbered(root, 1), policy, {}))
            found[str(size_bytes)] = {"error": error, "left": [path.name for path in root.iterdir()]}
    return found


def damaged(layout: Layout, shared: Path) -> dict[str, Any]:
    """Errors by what was done to a copy of a checkpoint: a bit flipped in each file, each file removed."""
    policy = _trained(layout)
    sound = shared / "sound"
    policy.save(sound, {"step": 2})
    version, before = policy.version, logprob_values(policy)
    names = sorted(path.name for path in sound.iterdir())
    dist.barrier()
    errors = {}
    for name in names:
        for damage in (_flip_a_bit, _remove, _cut):
            copy = shared / f"{damage.__name__}_{name}"
            if dist.get_rank() == 0:
                shutil.copytree(sound, copy)
                damage(copy / name)
            dist.barrier()
            errors[f"{damage.__name__} {name}"] = _error(lambda copy=copy: policy.load(copy))
    for name in ("common.pt", "more.distcp"):
        copy = shared / f"_extra_{name}"
        if dist.get_rank() == 0:
            shutil.copytree(sound, copy)
            (copy / name).write_bytes(b"nobody vouches for it")
        dist.barrier()
        errors[f"_extra {name}"] = _error(lambda copy=copy: policy.load(copy))
    unchanged = policy.version == version and logprob_values(policy) == before
    return {"errors": errors, "unchanged": unchanged}


def wrong_model(layout: Layout, shared: Path) -> dict[str, str]:
    """Errors on loading v3's checkpoint into another model, and one without an optimizer to go on from."""
    source = shared / "start_v3"
    wider, dense = models.policy("v3_wider", layout), models.policy("qwen2", layout)
    same = models.policy("v3", layout)
    same.start_training(models.OPTIMIZER)
    return {
        "wider": _error(lambda: wider.load(source, weights_only=True)),
        "dense": _error(lambda: dense.load(source, weights_only=True)),
        "no_optimizer": _error(lambda: same.load(source)),
        "absent": _error(lambda: same.load(shared / "nowhere")),
    }


def _trained(layout: Layout) -> Any:
    policy = models.policy("v3", layout)
    policy.start_training(models.OPTIMIZER)
    steps(policy, 0, 1)
    return policy


def _error(action: Any) -> str:
    try:
        action()
    except CheckpointError as error:
        return str(error)
    return ""


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 1
    path.write_bytes(content)


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
