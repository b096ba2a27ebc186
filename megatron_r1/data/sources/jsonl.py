"""A user's own file: one JSON object a line, as prompts to answer or as documents to learn from.

    {"messages": [{"role": "user", "content": "..."}], "reference": "4", "task": "math", "language": "en"}
    {"messages": [..., {"role": "assistant", "content": "..."}]}        a document
    {"text": "..."}                                                      a document of plain text

Every line is checked when the source is built, and only the byte offsets of lines are kept in memory. Each
epoch has its own order, given by the seed.
"""

import json
import os
from array import array
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy
from pydantic import Field

from megatron_r1.config.section import Section
from megatron_r1.data.split import Split, content_id, split_of
from megatron_r1.errors import DataError
from megatron_r1.types import Document, Message, Prompt

MAX_REPORTED = 20  # bad lines listed in one error
ROLES = ("system", "user", "assistant")
KEYS = {"messages", "text", "reference", "task", "language", "metadata", "id"}


class Jsonl(Section):
    """A file of prompts or documents."""

    source: Literal["jsonl"] = "jsonl"
    weight: float = Field(default=1.0, gt=0)
    """Share in a mixture, relative to the other sources."""
    path: str
    """The file: UTF-8, one JSON object a line; blank lines are skipped. A directory: all its .jsonl files."""
    task: str = "math"
    """Verifier of prompts whose line names none."""
    language: str = "en"
    """Language of lines that name none."""
    held_out: Literal["none", "tenth", "all"] = "none"
    """What is kept from training: nothing, one problem in ten (by a hash), or the whole file."""
    shuffle: bool = True
    """Walk the file in another order every epoch; false keeps the order of the file."""

    def build(self, seed: int, *, split: Split = "train") -> "JsonlSource":
        return JsonlSource(self, seed=seed, split=split)


SOURCE = Jsonl


class JsonlSource:
    """The lines of one side of the split."""

    def __init__(self, config: Jsonl, *, seed: int, split: Split) -> None:
        self._config = config
        self._seed = seed
        self._paths = _files(Path(config.path))
        self._files: list[int] = []
        self._owners = array("L")  # which file a line is in
        self._offsets = array("Q")
        self._numbers = array("Q")  # line numbers, for messages
        _check_side(config, split)
        self._scan(split if config.held_out == "tenth" else None)
        self.size: int = len(self._offsets)
        if not self.size:
            empty = not any(path.stat().st_size for path in self._paths)
            raise DataError(f"{config.path}: the file is empty" if empty else
                            f"{config.path}: no {split} line in it")  # fmt: skip
        self._files = [os.open(path, os.O_RDONLY) for path in self._paths]
        self._order = lru_cache(maxsize=2)(self._make_order)

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", ()):
            os.close(file)

    def prompt(self, index: int) -> Prompt:
        place, line = self._line(index)
        messages = _messages(line)
        if not messages or messages[-1].role != "user":
            raise DataError(f"{place}: a document; prompts end with the user's message")
        return self._prompt(place, line, messages)

    def question(self, index: int) -> Prompt:
        """The prompt of a line, without the answer that it may end with."""
        place, line = self._line(index)
        messages = _messages(line)
        return self._prompt(place, line, _asked(messages))

    def _prompt(self, place: str, line: dict[str, Any], messages: tuple[Message, ...]) -> Prompt:
        if "reference" not in line:
            raise DataError(f'{place}: a prompt needs a "reference" to be graded against')
        return Prompt(
            id=_line_id(line),
            messages=messages,
            reference=line["reference"],
            task=line.get("task", self._config.task),
            language=line.get("language", self._config.language),
            metadata=line.get("metadata", {}),
        )

    def document(self, index: int) -> Document:
        place, line = self._line(index)
        language = line.get("language", self._config.language)
        if "text" in line:
            return Document((), line["text"], language)
        messages = _messages(line)
        if messages[-1].role != "assistant":
            raise DataError(f"{place}: a prompt; documents end with the assistant's message")
        return Document(messages[:-1], messages[-1].content, language)

    def _line(self, index: int) -> tuple[str, dict[str, Any]]:
        """A line with where it stands, for messages."""
        epoch, place = divmod(index, self.size)
        row = int(self._order(epoch)[place]) if self._config.shuffle else place
        owner, begin = self._owners[row], self._offsets[row]
        raw = b""
        while not raw.endswith(b"\n"):
            chunk = os.pread(self._files[owner], 1 << 16, begin + len(raw))
            if not chunk:
                break
            raw += chunk[: chunk.find(b"\n") + 1 or None]
        return f"{self._paths[owner]}:{self._numbers[row]}", json.loads(raw)

    def _make_order(self, epoch: int) -> numpy.ndarray:
        return numpy.random.default_rng([self._seed, epoch]).permutation(self.size)

    def _scan(self, split: Split | None) -> None:
        """Check every line and note where those of the wanted side begin."""
        problems: list[str] = []
        num_bad = 0
        for owner, path in enumerate(self._paths):
            for number, begin, raw in _numbered_lines(path):
                line, problem = _parse(raw)
                if problem:
                    num_bad += 1
                    problems += [f"{path}:{number}: {problem}"][: MAX_REPORTED - len(problems)]
                elif split is None or split_of(_line_id(line)) == split:
                    self._owners.append(owner)
                    self._offsets.append(begin)
                    self._numbers.append(number)
        if num_bad:
            more = f"\n... {num_bad} bad lines in all" if num_bad > len(problems) else ""
            raise DataError("\n".join(problems) + more)


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no .jsonl file in this directory")
    if not files[0].is_file():
        raise DataError(f"{path}: no such file")
    return files


def _numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, line) of the lines that are not blank."""
    offset = 0
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            begin, offset = offset, offset + len(raw)
            if raw.strip():
                yield number, begin, raw


def _check_side(config: Jsonl, split: Split) -> None:
    if split == "train" and config.held_out == "all":
        raise DataError(f"{config.path}: held_out: all keeps this file from training; train on another one")
    if split == "held_out" and config.held_out == "none":
        raise DataError(
            f"{config.path}: nothing of this file is held out; set held_out: tenth (training then leaves "
            "those lines out) or, for a file that is never trained on, held_out: all"
        )


def _line_id(line: dict[str, Any]) -> str:
    """Hash of the question alone, so that all answers to it stay on one side."""
    if "text" in line:
        return content_id(line["text"])
    asked = [m for m in line["messages"] if m["role"] != "assistant"]
    return content_id(json.dumps([m["content"] for m in asked], ensure_ascii=False))


def _messages(line: dict[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(m["role"], m["content"]) for m in line.get("messages", ()))


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    answered = bool(messages) and messages[-1].role == "assistant"
    return messages[:-1] if answered else messages


def _parse(raw: bytes) -> tuple[dict[str, Any], str | None]:
    """The line, and what is wrong with it."""
    try:
        line = json.loads(raw)
    except ValueError as error:  # bad UTF-8 is one too
        return {}, f"not JSON: {error}"
    if not isinstance(line, dict):
        return {}, f"a JSON object is needed, not {type(line).__name__}"
    return line, _key_problem(line) or _messages_problem(line)


def _key_problem(line: dict[str, Any]) -> str | None:
    unknown = sorted(line.keys() - KEYS)
    if unknown:
        return f"unknown key {', '.join(map(repr, unknown))}; known are {', '.join(sorted(KEYS))}"
    if ("messages" in line) == ("text" in line):
        return 'give exactly one of "messages" and "text"'
    for key in ("text", "reference", "task", "language"):
        if key in line and not isinstance(line[key], str):
            return f'"{key}" must be a string, not {line[key]!r}'
    if not line.get("text", "."):
        return '"text" is empty'
    if not isinstance(line.get("metadata", {}), dict):
        return f'"metadata" must be an object, not {line["metadata"]!r}'
    return None


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
            return f"message {place} has role {message['role']!r}; roles are {', '.join(ROLES)}"
        if not isinstance(message["content"], str) or not message["content"]:
            return f"message {place} needs a non-empty string as content, not {message['content']!r:.80}"
    turns = [m["role"] for m in messages[messages[0]["role"] == "system" :]]
    if turns != ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))] or not turns:
        return f"turns must alternate, the user first; got {', '.join(m['role'] for m in messages)}"
    return None
