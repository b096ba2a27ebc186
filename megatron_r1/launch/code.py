"""Which code a run was made with: the commit, and the changes that no commit holds."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def commit() -> str:
    """The commit of this code, with `+changes` if files differ from it; "unknown" outside of git."""
    found = _git("rev-parse", "HEAD")
    if found is None:
        return "unknown"
    return f"{found.strip()}{'+changes' if _git('diff', '--quiet', 'HEAD') is None else ''}"


def keep(directory: Path) -> None:
    """Write code.txt, and code.diff if there are changes, for who wants to run it again."""
    (directory / "code.txt").write_text(f"{commit()}\n")
    diff = _git("diff", "HEAD", "--", ".")
    (directory / "code.diff").unlink(missing_ok=True)
    if diff:
        (directory / "code.diff").write_text(diff)


def _git(*words: str) -> str | None:
    """The output, or None: no git, no repository, or a command that says no."""
    try:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
