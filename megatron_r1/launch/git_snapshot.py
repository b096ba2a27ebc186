"""Git snapshot: the commit and the uncommitted changes that a run used, or the installed version."""

import subprocess
import sysconfig
from pathlib import Path

from megatron_r1 import __version__
from megatron_r1.files.run_directory import CODE, CODE_CHANGES

REPOSITORY = Path(__file__).parents[2]


def is_installed() -> bool:
    """Whether this package lies in the interpreter's site-packages, so that it needs no PYTHONPATH."""
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    return REPOSITORY.resolve() in folders


def commit() -> str:
    """The commit of this code, with `+changes` if files differ from it; the version outside of git."""
    found = _git("rev-parse", "HEAD")
    if found is None:
        return f"megatron-r1 {__version__}"
    return f"{found.strip()}{'+changes' if _git('diff', '--quiet', 'HEAD') is None else ''}"


def keep(directory: Path) -> None:
    """Write code.txt, and code.diff if there are uncommitted changes, so that the run can be repeated."""
    (directory / CODE).write_text(f"{commit()}\n")
    diff = _git("diff", "HEAD", "--", ".")
    (directory / CODE_CHANGES).unlink(missing_ok=True)
    if diff:
        (directory / CODE_CHANGES).write_text(diff)


def _git(*words: str) -> str | None:
    """The output; None without git, if the command fails, or if the repository doesn't track this file.

    The last happens where the environment lies inside a user's project, whose commit is not this code's.
    """
    here = ["git", "-C", str(REPOSITORY)]
    try:
        subprocess.run([*here, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        return subprocess.run([*here, *words], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
