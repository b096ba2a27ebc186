"""A directory that grows part by part: an interrupted conversion goes on where it stopped, or starts anew.

    TARGET.tmp/plan.json       what is to be written, and from what; another plan throws the parts away
    TARGET.tmp/NAME            a finished part, on the disk before it gets its name
    TARGET.tmp/NAME.done       its size, its SHA-256 and what its writer noted

The directory gets its own name last, in one rename (`finish`), so that nothing unfinished looks complete.
Several ranks may write parts of one directory; one of them starts and finishes it.
"""

import hashlib
import json
import os
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from megatron_r1.errors import CheckpointError

PLAN = "plan.json"
DONE = ".done"
PART = ".part"
CHUNK = 8 << 20
COPIED = 1 << 16  # below this a copy costs nothing, and headers come out of passing buffers
QUEUED = 4  # chunks that wait to be hashed


class HashedFile:
    """A file being written; SHA-256 is computed meanwhile by a thread of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self._queue: queue.Queue[memoryview | None] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._consume, daemon=True)
        self._thread.start()

    def write(self, data: bytes | memoryview) -> int:
        """Large data is not copied: it must stay as it is until `settle`, or be kept alive by the view."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK):
            chunk = view[start : start + CHUNK]
            self._queue.put(memoryview(bytes(chunk)) if len(chunk) < COPIED else chunk)
            self._file.write(chunk)
        return len(view)

    def settle(self) -> None:
        """Wait until all that was written is hashed: its memory may be used again."""
        self._queue.join()

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        """Ends the thread; nothing may be written any more."""
        self._queue.put(None)
        self._thread.join()
        return self._hash.hexdigest()

    def _consume(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._hash.update(chunk)
            self._queue.task_done()


class Parts:
    """The parts of one target directory."""

    def __init__(self, target: Path, *, replaceable: str | None = None) -> None:
        """replaceable: a target with a file of this name is ours, and the new one takes its place."""
        self.target, self._replaceable = target, replaceable
        self.partial = target.with_name(target.name + ".tmp")

    def start(self, plan: dict[str, Any], *, num_bytes: int) -> list[str]:
        """Make the partial directory, or go on in the one that holds the same plan; returns what is done.

        Raises CheckpointError where the target exists or the disk can't hold it; nothing is written then.
        """
        if self.target.exists() and not self._may_replace():
            raise CheckpointError(f"{self.target}: exists; remove it or give another name")
        path, text = self.partial / PLAN, json.dumps(plan, indent=1, sort_keys=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            shutil.rmtree(self.partial, ignore_errors=True)
        done = self.done()
        self._require_space(num_bytes - sum(self.note(name)["size"] for name in done))
        if not done:
            self.partial.mkdir(parents=True, exist_ok=True)
            _write_durably(path, text)
        return done

    def done(self) -> list[str]:
        """Names of the finished parts."""
        found = sorted(self.partial.glob(f"*{DONE}")) if self.partial.is_dir() else []
        return [path.name.removesuffix(DONE) for path in found]

    def note(self, name: str) -> dict[str, Any]:
        """Size, sha256 and `note` of a finished part."""
        return json.loads((self.partial / (name + DONE)).read_text(encoding="utf-8"))

    def write(self, name: str, fill: Callable[[HashedFile], Any]) -> None:
        """Write a part with `fill`, whose answer (JSON) is kept as its note."""
        unfinished = self.partial / (name + PART)
        with unfinished.open("wb") as raw:
            file = HashedFile(raw)
            try:
                note = fill(file)
            finally:
                digest = file.digest()
            raw.flush()
            os.fsync(raw.fileno())
            size = raw.tell()
        unfinished.rename(self.partial / name)
        text = json.dumps({"size": size, "sha256": digest, "note": note})
        _write_durably(self.partial / (name + DONE), text)

    def written(self) -> int:
        """Bytes of all parts so far, unfinished ones as well."""
        if not self.partial.is_dir():
            return 0
        return sum(entry.stat().st_size for entry in os.scandir(self.partial) if entry.is_file())

    def own_files(self) -> set[str]:
        """Names of what is here only while the directory grows."""
        return {path.name for path in self.partial.iterdir() if path.suffix in (DONE, PART)} | {PLAN}

    def sweep(self) -> None:
        """Remove the notes, last of all before the directory gets its name."""
        for name in self.own_files():
            (self.partial / name).unlink(missing_ok=True)

    def publish(self) -> None:
        """The directory gets its name."""
        _sync(self.partial)
        replaced = self.target.with_name(self.target.name + ".old")
        if self.target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            self.target.rename(replaced)
        self.partial.rename(self.target)
        _sync(self.target.parent)
        shutil.rmtree(replaced, ignore_errors=True)

    def _may_replace(self) -> bool:
        return self._replaceable is not None and (self.target / self._replaceable).is_file()

    def _require_space(self, num_bytes: int) -> None:
        place = next(path for path in self.target.absolute().parents if path.is_dir())
        free = shutil.disk_usage(place).free
        if free < num_bytes:
            raise CheckpointError(
                f"{self.target}: {num_bytes / 1e9:.2f} GB are needed on this disk, {free / 1e9:.2f} GB are "
                "free; make room or choose another disk"
            )


def _write_durably(path: Path, text: str) -> None:
    """The file is whole or not there."""
    new = path.with_name(path.name + PART)
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
