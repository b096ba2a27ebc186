"""Collective checks of checkpoints: verify all hashes, and choose the checkpoint that a run resumes from."""

from pathlib import Path

from megatron_r1.backend.checkpoint import choice, files
from megatron_r1.backend.checkpoint.files import Manifest
from megatron_r1.backend.parallel.collectives import on_all_ranks, on_first_rank, share
from megatron_r1.errors import CheckpointError


def read_manifest(directory: Path) -> Manifest:
    return on_all_ranks(f"{directory}: not read", lambda: files.read_manifest(directory))


def check_files(directory: Path) -> Manifest:
    """Raises CheckpointError unless every file matches its hash and there are no others; ranks share the
    work."""
    manifest = read_manifest(directory)

    def check() -> None:
        files.check_listed(directory, manifest)
        for name in share(list(manifest.files)):
            files.check_file(directory, name, manifest.files[name])

    on_all_ranks(f"{directory}: not read", check)
    return manifest


def to_resume_from(root: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint of a run, with warnings; None: there is no checkpoint.

    Collective. CheckpointError: all are damaged. A complete checkpoint that an interrupted save left under
    another name is renamed first. `load(..., checked=True)` doesn't hash the files again.
    """
    what, damaged = f"{root}: not read", []
    notes = on_first_rank(what, lambda: choice.recover(root))
    for found in on_first_rank(what, lambda: choice.candidates(root)):
        problem = found.problem or _hash_problem(found.directory)
        if problem is None:
            warning = [choice.passed_over(damaged, found.directory)] if damaged else []
            return found.directory, notes + warning
        damaged.append(problem)
    if damaged:
        raise choice.none_sound(root, damaged)
    return None, notes


def _hash_problem(directory: Path) -> str | None:
    try:
        check_files(directory)
    except CheckpointError as error:
        return str(error)
    return None
