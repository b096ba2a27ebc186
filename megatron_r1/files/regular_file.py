"""Checks that a path is a readable regular file before anything opens it.

Opening a named pipe blocks for ever and reading a device never ends, so only regular files are read.
"""

import os
import stat
from pathlib import Path

from megatron_r1.errors import R1Error

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def file_problem(path: Path) -> str | None:
    """Why `path` can't be read as a file; None if it can."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else "no such file"
    except ValueError:
        return "no path: it holds a NUL character"
    except OSError as error:  # no permission, links in a circle, a name too long
        return f"can't be reached: {error.strerror}"
    if not stat.S_ISREG(mode):
        return f"{KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file"
    return None if os.access(path, os.R_OK) else "can't be read: permission denied"


def read_bytes(path: Path, *, error: type[R1Error], remedy: str = "") -> bytes:
    """The whole file. Raises `error` with the path, the reason and the remedy where it can't be read."""
    problem = file_problem(path)
    if problem is None:
        try:
            return path.read_bytes()
        except OSError as failed:
            problem = f"can't be read: {failed.strerror}"
    raise error(f"{path}: {problem}" + (f"; {remedy}" if remedy else ""))
