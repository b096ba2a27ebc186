"""JSON-lines files: checks every line once and remembers where it is, so that it can be read again.

Only the position, length and checksum of each line stay in memory. The checksum detects a file that was
changed between the check and the read.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from megatron_r1.errors import DataError
from megatron_r1.files.json_reader import NotJson, parse_json
from megatron_r1.files.regular_file import file_problem

ROLES = ("system", "user", "assistant")
KEYS = {"messages", "text", "reference", "task", "language", "metadata", "id"}
LONGEST_LINE = 256 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """A line's place in its file: number from 1 on, first byte, length in bytes, and CRC-32."""

    number: int
    begin: int
    length: int
    checksum: int


def data_files(path: Path) -> list[Path]:
    """The file, or all .jsonl files of a directory. DataError for a file that can't be read."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no .jsonl file in this directory")
    problems = [f"{file}: {problem}" for file in files if (problem := file_problem(file))]
    if problems:
        raise DataError("\n".join(problems))
    return files


def numbered_lines(file: BinaryIO, *, name: Path) -> Iterator[tuple[Place, bytes]]:
    """The lines that are not blank. DataError for a line above LONGEST_LINE."""
    number = begin = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(raw) > LONGEST_LINE:
            raise DataError(f"{name}:{number}: longer than {LONGEST_LINE >> 20} MiB; write one object a line")
        if raw.strip():
            yield Place(number, begin, len(raw), zlib.crc32(raw)), raw
        begin += len(raw)


def read_again(descriptor: int, place: Place, *, name: Path) -> dict[str, Any]:
    """The line at a place. DataError if the file has changed since it was checked."""
    raw = b""
    while len(raw) < place.length:
        part = os.pread(descriptor, place.length - len(raw), place.begin + len(raw))
        if not part:
            break
        raw = raw + part if raw else part
    if zlib.crc32(raw) != place.checksum:
        raise DataError(
            f"{name}:{place.number}: the file has changed since the stage began to read it; put back what it "
            "held and run the same command, or begin the stage anew with --from"
        )
    return parse_json(raw)


def parse_line(raw: bytes) -> tuple[dict[str, Any], str | None]:
    """The line and its problem, None if there is none."""
    try:
        line = parse_json(raw)
    except NotJson as error:
        return {}, f"not JSON: {error}{_hint(raw)}"
    if not isinstance(line, dict):
        return {}, f"a JSON object is needed, not {type(line).__name__}{_hint(raw)}"
    return line, _key_problem(line) or _messages_problem(line)


def _hint(raw: bytes) -> str:
    if raw.lstrip()[:1] == b"[" or raw.strip() == b"{":
        return "; a line is one whole object, so write an array or indented JSON as one object a line"
    return ""


def _key_problem(line: dict[str, Any]) -> str | None:
    unknown = sorted(line.keys() - KEYS)
    if unknown:
        return f"unknown key {', '.join(map(repr, unknown)):.200}; known are {', '.join(sorted(KEYS))}"
    if ("messages" in line) == ("text" in line):
        return 'give exactly one of "messages" and "text"'
    for key in ("text", "reference", "task", "language"):
        if key in line and not isinstance(line[key], str):
            return f'"{key}" must be a string, not {line[key]!r:.80}'
    for key in ("text", "task", "language"):
        if not line.get(key, ".").strip():
            return f'"{key}" is empty'
    if not isinstance(line.get("metadata", {}), dict):
        return f'"metadata" must be an object, not {line["metadata"]!r:.80}'
    if not _is_id(line.get("id", 0)):
        return f'"id" must be a string or a whole number, not {line["id"]!r:.80}'
    return None


def _is_id(value: Any) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or type(value) is int


def _messages_problem(line: dict[str, Any]) -> str | None:
    messages = line.get("messages")
    if "text" in line:
        return None
    if not isinstance(messages, list) or not messages:
        return '"messages" must be a list with at least one message'
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            return f'message {place} must be {{"role": ..., "content": ...}}, not {message!r:.80}'
        if message["role"] not in ROLES:
            return f"message {place} has role {message['role']!r:.80}; roles are {', '.join(ROLES)}"
        if not isinstance(message["content"], str) or not message["content"].strip():
            return f"message {place} needs a non-empty string as content, not {message['content']!r:.80}"
    turns = [m["role"] for m in messages[messages[0]["role"] == "system" :]]
    if turns != ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))] or not turns:
        return f"turns must alternate, the user first; got {', '.join(m['role'] for m in messages[:20])}"
    return None
