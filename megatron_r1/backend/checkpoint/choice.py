"""Chooses the checkpoint from which an interrupted stage resumes; warns if it isn't simply the newest.

A process can be killed at any moment of a save (files.py). What is left is one of these:

    step_N.tmp without a manifest        an unfinished save: ignored, and overwritten later
    step_N.tmp with all listed files     only the last rename is missing: it is renamed to step_N
    step_N.old, no step_N, no such .tmp  the replaced checkpoint is renamed back to step_N

A checkpoint under its final name was complete. If it is damaged later, the run warns and resumes from the one
before, which leads to the same result; without one it stops. It never starts from scratch.
"""

from dataclasses import dataclass
from pathlib import Path

from megatron_r1.backend.checkpoint import files
from megatron_r1.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint of a run. problem: why it can't be read, as far as is known without hashing its files."""

    directory: Path
    problem: str | None


def recover(root: Path) -> list[str]:
    """Rename complete checkpoints that an interrupted save left; returns warnings. One process calls it."""
    notes = []
    for suffix in (".tmp", ".old"):
        for leftover in files.leftovers(root, suffix):
            named = leftover.with_suffix("")
            if not named.exists() and files.problem_of(leftover) is None:
                leftover.rename(named)
                notes.append(
                    f"{named}: was written in full when its save was interrupted, and has its name now"
                )
    return notes


def candidates(root: Path) -> list[Candidate]:
    """All checkpoints of a run, the newest first."""
    return [Candidate(path, files.problem_of(path)) for path in reversed(files.numbered_ones(root))]


def newest(root: Path) -> Path | None:
    """The newest checkpoint, for a single process that reads it; None: there is none.

    CheckpointError: it is damaged; to read an older one, name that one.
    """
    found = candidates(root)
    if not found:
        return None
    if found[0].problem is None:
        return found[0].directory
    sound = next((one.directory for one in found if one.problem is None), None)
    hint = "no other is complete" if sound is None else f"the newest that is complete is {sound}"
    raise CheckpointError(f"{found[0].problem}; {hint}")


def passed_over(damaged: list[str], chosen: Path) -> str:
    """The warning when a run resumes from an older checkpoint."""
    return (
        f"goes on from {chosen.name}, the newest checkpoint that is sound, and makes the steps after it "
        f"again: {_joined(damaged)}"
    )


def none_sound(root: Path, damaged: list[str]) -> CheckpointError:
    """The error of a run whose checkpoints are all damaged."""
    return CheckpointError(
        f"{root}: {len(damaged)} checkpoint{'s' if damaged[1:] else ''}, and none to go on from: "
        f"{_joined(damaged)}; nothing was changed: restore one of them, or use --from {root.parent.name} to "
        "begin the stage anew"
    )


def _joined(damaged: list[str]) -> str:
    """The problems without their remedy: there is no other checkpoint to take."""
    return "; ".join(text.removesuffix(f"; {files.REMEDY}") for text in damaged)
