"""Resumable writer of a directory, part by part: an interrupted conversion resumes, or starts again.

    TARGET.tmp/plan.json       what is written, and from what; another plan discards the parts
    TARGET.tmp/NAME            a finished part, synced to disk before it gets this name
    TARGET.tmp/NAME.done       its size, its hash and its writer's note

The directory is renamed to TARGET last (`publish`), so nothing unfinished looks complete. Several ranks may
write parts of one directory; one of them starts and publishes it.
"""

import contextlib
import ctypes
import json
import os
import queue
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from megatron_r1.errors import CheckpointError
from megatron_r1.files.atomic import sync, write_whole
from megatron_r1.files.json_reader import read_json_object

PLAN = "plan.json"
DONE = ".done"
PART = ".part"
CHUNK = 1 << 20  # hashed at a time
WRITTEN = 1 << 16  # at a time: larger writes use huge pages, which a virtual machine has often given back
SMALL = 1 << 16  # smaller data is copied: that is cheap, and headers are in temporary buffers
TRIM_BYTES = 256 << 20  # written between two clean-ups of the allocator
QUEUED = 4  # chunks that wait to be hashed


class Hash(Protocol):
    """The interface of hashlib's hashes."""

    def update(self, data: Any, /) -> object: ...
    def hexdigest(self) -> str: ...


class HashedFile:
    """A file being written, hashed at the same time by a thread."""

    def __init__(self, file: BinaryIO, hasher: Hash) -> None:
        self._file, self._hash = file, hasher
        self._small = bytearray()  # small pieces, hashed together: a zip archive has dozens a tensor
        self._queue: queue.Queue[memoryview | None] = queue.Queue(QUEUED)
        self._queued = self._hashed = self._settled = 0  # chunks; `settled`: queued when `settle` came last
        self._progress = threading.Condition()
        self._untrimmed = 0
        self._thread = threading.Thread(target=self._consume, daemon=True)
        self._thread.start()

    def write(self, data: bytes | memoryview) -> int:
        """Large data isn't copied: it must stay alive and unchanged until the second `settle` after this."""
        view = memoryview(data).cast("B")
        if len(view) < SMALL:
            self._small += view
            self._file.write(view)
            return len(view)
        self._hand_over_small()
        for start in range(0, len(view), CHUNK):
            chunk = view[start : start + CHUNK]
            self._hand_over(chunk)
            for at in range(0, len(chunk), WRITTEN):
                self._file.write(chunk[at : at + WRITTEN])
        self._untrimmed += len(view)
        return len(view)

    def settle(self) -> None:
        """Wait until all data written before the previous `settle` is hashed; its memory may be reused."""
        with self._progress:
            self._progress.wait_for(lambda: self._hashed >= self._settled)
        self._settled = self._queued
        if self._untrimmed > TRIM_BYTES:
            _trim()
            self._untrimmed = 0

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        """The hash. Ends the thread; nothing may be written afterwards."""
        self._hand_over_small()
        self._queue.put(None)
        self._thread.join()
        return self._hash.hexdigest()

    def _hand_over_small(self) -> None:
        if self._small:
            self._hand_over(memoryview(self._small))
            self._small = bytearray()

    def _hand_over(self, chunk: memoryview) -> None:
        self._queued += 1
        self._queue.put(chunk)

    def _consume(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._hash.update(chunk)
            with self._progress:
                self._hashed += 1
                self._progress.notify()


class Parts:
    """The parts of one target directory."""

    def __init__(self, target: Path, new_hash: Callable[[], Hash], *, replaceable: str | None = None) -> None:
        """new_hash: of each part, such as hashlib.sha256.
        replaceable: an existing target that has a file of this name may be replaced."""
        self.target, self._new_hash, self._replaceable = target, new_hash, replaceable
        self._finisher = ThreadPoolExecutor(1)
        self._finishing: Future[None] | None = None
        self.partial = target.with_name(target.name + ".tmp")

    def start(self, plan: dict[str, Any], *, num_bytes: int) -> list[str]:
        """Create the partial directory, or resume one with the same plan; returns the finished parts.

        Raises CheckpointError, before anything is written, if the target exists or the disk is too small.
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
            write_whole(path, text, suffix=PART)
        return done

    def done(self) -> list[str]:
        """Names of the finished parts."""
        found = sorted(self.partial.glob(f"*{DONE}")) if self.partial.is_dir() else []
        return [path.name.removesuffix(DONE) for path in found]

    def note(self, name: str) -> dict[str, Any]:
        """Size, digest and `note` of a finished part."""
        remedy = f"remove {self.partial} and begin again"
        return read_json_object(self.partial / (name + DONE), error=CheckpointError, remedy=remedy)

    def write(self, name: str, fill: Callable[[HashedFile], Any]) -> None:
        """Write a part with `fill`, whose result (JSON) is kept as its note.

        It is synced to disk while the next one is written; `settle` waits for the last one.
        """
        raw = (self.partial / (name + PART)).open("wb")
        file = HashedFile(raw, self._new_hash())
        try:
            note = fill(file)
        except BaseException:
            raw.close()
            raise
        finally:
            digest = file.digest()
        self.settle()
        self._finishing = self._finisher.submit(self._finish, name, raw, digest, note)

    def settle(self) -> None:
        """Wait until every part is finished; raises the error of one that failed."""
        if self._finishing is not None:
            self._finishing.result()
            self._finishing = None

    def _finish(self, name: str, raw: BinaryIO, digest: str, note: Any) -> None:
        with raw:
            raw.flush()
            os.fsync(raw.fileno())
            size = raw.tell()
        (self.partial / (name + PART)).rename(self.partial / name)
        text = json.dumps({"size": size, "digest": digest, "note": note})
        write_whole(self.partial / (name + DONE), text, suffix=PART)

    def written(self) -> int:
        """Bytes of all parts so far, including unfinished ones."""
        if not self.partial.is_dir():
            return 0
        size = 0
        for entry in os.scandir(self.partial):
            with contextlib.suppress(FileNotFoundError):  # a part that has just got its name
                size += entry.stat().st_size
        return size

    def own_files(self) -> set[str]:
        """Names of the files that exist only while the directory is written."""
        return {path.name for path in self.partial.iterdir() if path.suffix in (DONE, PART)} | {PLAN}

    def sweep(self) -> None:
        """Remove the plan and the notes; call it just before `publish`."""
        for name in self.own_files():
            (self.partial / name).unlink(missing_ok=True)

    def publish(self) -> None:
        """Rename the directory to its final name."""
        sync(self.partial)
        replaced = self.target.with_name(self.target.name + ".old")
        if self.target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            self.target.rename(replaced)
        self.partial.rename(self.target)
        sync(self.target.parent)
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


def _trim() -> None:
    """Return freed memory to the system: glibc keeps what lies between small pieces still in use."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
