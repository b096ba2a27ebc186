"""Writes that leave a file whole or absent, whenever the process or the machine dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

NEW = ".new"


@contextmanager
def replacing(path: Path, *, durable: bool = True, suffix: str = NEW) -> Iterator[BinaryIO]:
    """A file to write into, which takes the path's name when the block ends: readers see all of it or none.

    durable: what was written is on the disk before it gets the name, so that it outlives the machine too.
    suffix: of its name until then; one that several processes may write at a time needs one for each.
    """
    new = path.with_name(path.name + suffix)
    with new.open("wb") as file:
        yield file
        if durable:
            _to_disk(file)
    new.replace(path)


def write_whole(path: Path, content: str | bytes, *, durable: bool = True, suffix: str = NEW) -> None:
    """The same for content that is at hand; text is written as UTF-8."""
    with replacing(path, durable=durable, suffix=suffix) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_durably(path: Path, text: str) -> None:
    """The text is on the disk when this returns; for a file in a directory that is not complete yet."""
    with path.open("wb") as file:
        file.write(text.encode())
        _to_disk(file)


def sync(path: Path) -> None:
    """What was written to a file, or which names a directory holds, is on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
