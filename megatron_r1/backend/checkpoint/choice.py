"""Which checkpoint an interrupted stage goes on from, said in words wherever that is not simply the newest.

A kill can come at any moment of a save (files.py). What it leaves is one of these, and each has
one way on:

    step_N.tmp without a manifest      the save was not over: it counts for nothing and is written over
    step_N.tmp with all that it lists  only the last rename was missing: it gets its name
    step_N.old, no step_N, no such .tmp  the one that was to be replaced gets its name back

A checkpoint that has its name was whole. If it isn't any more, something else damaged it: the run says what,
and goes on from the one before, which leads to the same result; without one it stops. It never begins anew.
"""

from dataclasses import dataclass
from pathlib import Path

from megatron_r1.backend.checkpoint import files
from megatron_r1.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint of a run. problem: why it can't be read, as far as that is seen without reading it all."""

    directory: Path
    problem: str | None


def recover(root: Path) -> list[str]:
    """Give what an interrupted save left complete its name; says which. One process calls it."""
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
    """The newest first; those from the first sound one on are enough to choose from."""
    return [Candidate(path, files.problem_of(path)) for path in reversed(files.numbered_ones(root))]


def newest(root: Path) -> Path | None:
    """The newest checkpoint, for who reads it alone; None: there is none.

    CheckpointError: it is damaged, and whoever wants the one before has to name it.
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
    """The warning where a run goes on from an older checkpoint."""
    return (
        f"goes on from {chosen.name}, the newest checkpoint that is sound, and makes the steps after it "
        f"again: {_joined(damaged)}"
    )


def none_sound(root: Path, damaged: list[str]) -> CheckpointError:
    """What ends a run that has checkpoints and none to go on from."""
    return CheckpointError(
        f"{root}: {len(damaged)} checkpoint{'s' if damaged[1:] else ''}, and none to go on from: "
        f"{_joined(damaged)}; nothing was changed: restore one of them, or use --from {root.parent.name} to "
        "begin the stage anew"
    )


def _joined(damaged: list[str]) -> str:
    """Without the remedy of each: there is no other to take."""
    return "; ".join(text.removesuffix(f"; {files.REMEDY}") for text in damaged)
