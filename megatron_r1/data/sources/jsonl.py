"""Source of a user's own JSON-lines file: each line is a prompt or a training document.

    {"messages": [{"role": "user", "content": "..."}], "reference": "4", "task": "math", "language": "en"}
    {"messages": [..., {"role": "assistant", "content": "..."}]}        a document
    {"text": "..."}                                                      a document of plain text

An "id" (text or a whole number) is appended to the prompt's own id in samples and messages. Every line is
checked when the source is built (json_lines.py); only the lines' places are kept in memory. Each epoch has
its own order, given by the seed.
"""

import json
import os
from array import array
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy
from pydantic import Field

from megatron_r1.data.json_lines import Place, data_files, numbered_lines, parse_line, read_again
from megatron_r1.data.split import Split, content_id, split_of
from megatron_r1.errors import DataError
from megatron_r1.section import Section
from megatron_r1.types import Document, Message, Prompt

Line = dict[str, Any]
MAX_REPORTED = 20  # bad lines listed in one error


class Jsonl(Section):
    """A file of prompts or documents."""

    source: Literal["jsonl"] = "jsonl"
    weight: float = Field(default=1.0, gt=0, le=1e15)
    """Share in a mixture, relative to the other sources."""
    path: str
    """The file: UTF-8, one JSON object a line; blank lines are skipped. A directory: all its .jsonl files."""
    task: str = "math"
    """Verifier of prompts whose line has no "task"."""
    language: str = "en"
    """Language of lines without "language"."""
    held_out: Literal["none", "tenth", "all"] = "none"
    """What is held out from training: nothing, one prompt in ten (by a hash), or the whole file."""
    shuffle: bool = True
    """Shuffle the lines anew every epoch; false keeps the order of the file."""

    def build(self, seed: int, *, split: Split = "train") -> "JsonlSource":
        return JsonlSource(self, seed=seed, split=split)

    def input_files(self) -> list[Path]:
        return data_files(Path(self.path))


SOURCE = Jsonl


class LineReader:
    """Converts a checked line to a prompt or document. Its DataErrors don't name the file and line."""

    def __init__(self, config: Jsonl) -> None:
        self._config = config

    def prompt(self, line: Line) -> Prompt:
        messages = _messages(line)
        if not messages or messages[-1].role != "user":
            raise DataError("a document; prompts end with the user's message")
        return self._prompt(line, messages)

    def question(self, line: Line) -> Prompt:
        """The prompt, without the response that the line may end with."""
        return self._prompt(line, _asked(_messages(line)))

    def _prompt(self, line: Line, messages: tuple[Message, ...]) -> Prompt:
        if "reference" not in line:
            raise DataError('a prompt needs a "reference" to be graded against')
        return Prompt(
            id=_line_id(line),
            messages=messages,
            reference=line["reference"],
            task=line.get("task", self._config.task),
            language=line.get("language", self._config.language),
            metadata=line.get("metadata", {}),
        )

    def document(self, line: Line) -> Document:
        language = line.get("language", self._config.language)
        if "text" in line:
            return Document((), line["text"], language)
        messages = _messages(line)
        if messages[-1].role != "assistant":
            raise DataError("a prompt; documents end with the assistant's message")
        return Document(messages[:-1], messages[-1].content, language)

    def side(self, line: Line) -> Split:
        """The side of the split with held_out: tenth."""
        return split_of(_content_id(line))


class JsonlSource:
    """The lines of one side of the split."""

    def __init__(self, config: Jsonl, *, seed: int, split: Split) -> None:
        self._config, self._reader = config, LineReader(config)
        self._seed = seed
        check_side(config, split)
        self._paths = data_files(Path(config.path))
        self._files: list[int] = []
        self._owners = array("L")  # the index of each line's file
        self._places = tuple(array("Q") for _ in fields(Place))
        self._scan(split if config.held_out == "tenth" else None)
        self.size: int = len(self._owners)
        if not self.size:
            raise DataError(f"{config.path}: {_empty(self._paths, split)}")
        self._order = lru_cache(maxsize=2)(self._make_order)

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", ()):
            os.close(file)

    def prompt(self, index: int) -> Prompt:
        return self._placed(index, self._reader.prompt)

    def question(self, index: int) -> Prompt:
        """The prompt of a line, without the response that it may end with."""
        return self._placed(index, self._reader.question)

    def document(self, index: int) -> Document:
        return self._read(index, self._reader.document)[1]

    def _placed(self, index: int, read: Callable[[Line], Prompt]) -> Prompt:
        place, prompt = self._read(index, read)
        return replace(prompt, place=place)

    def _read[T](self, index: int, read: Callable[[Line], T]) -> tuple[str, T]:
        place, line = self._line(index)
        try:
            return place, read(line)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None

    def _line(self, index: int) -> tuple[str, Line]:
        """A line, with FILE:NUMBER for messages."""
        epoch, place = divmod(index, self.size)
        row = int(self._order(epoch)[place]) if self._config.shuffle else place
        owner, place = self._owners[row], Place(*(column[row] for column in self._places))
        path = self._paths[owner]
        return f"{path}:{place.number}", read_again(self._files[owner], place, name=path)

    def _make_order(self, epoch: int) -> numpy.ndarray:
        return numpy.random.default_rng([self._seed, epoch]).permutation(self.size)

    def _scan(self, split: Split | None) -> None:
        """Check every line and keep the places of those on this side of the split."""
        problems: list[str] = []
        num_bad = 0
        for owner, path in enumerate(self._paths):
            file = path.open("rb")
            self._files.append(os.dup(file.fileno()))  # stays open: a file put in its place later is not read
            with file:
                for place, raw in numbered_lines(file, name=path):
                    line, problem = parse_line(raw)
                    if problem:
                        num_bad += 1
                        problems += [f"{path}:{place.number}: {problem}"][: MAX_REPORTED - len(problems)]
                    elif split is None or self._reader.side(line) == split:
                        self._keep(owner, place)
        if num_bad:
            more = f"\n... {num_bad} bad lines in all" if num_bad > len(problems) else ""
            raise DataError("\n".join(problems) + more)

    def _keep(self, owner: int, place: Place) -> None:
        self._owners.append(owner)
        for column, value in zip(self._places, astuple(place), strict=True):
            column.append(value)


def check_side(config: Jsonl, split: Split) -> None:
    """DataError if `held_out` leaves the file without that side."""
    if split == "train" and config.held_out == "all":
        raise DataError(f"{config.path}: held_out: all keeps this file from training; train on another one")
    if split == "held_out" and config.held_out == "none":
        raise DataError(
            f"{config.path}: nothing of this file is held out; set held_out: tenth (training then leaves "
            "those lines out) or, for a file that is never trained on, held_out: all"
        )


def _content_id(line: Line) -> str:
    """Hash of the prompt alone, so that all responses to it are on one side of the split."""
    if "text" in line:
        return content_id(line["text"])
    asked = [m for m in line["messages"] if m["role"] != "assistant"]
    return content_id(json.dumps([m["content"] for m in asked], ensure_ascii=False))


def _line_id(line: Line) -> str:
    """The hash of the prompt, followed by the line's own id if it has one."""
    own, brought = _content_id(line), str(line.get("id", ""))
    return brought if brought.startswith(own) else f"{own}-{brought}" if brought else own


def _empty(paths: list[Path], split: Split) -> str:
    if not any(path.stat().st_size for path in paths):
        return "the file is empty"
    return (
        f"no {split} line in it: with held_out: tenth one question in ten is held out, by its hash, and here "
        "all are on the other side; add lines, or set held_out: all (none) for a file on one side only"
    )


def _messages(line: Line) -> tuple[Message, ...]:
    return tuple(Message(m["role"], m["content"]) for m in line.get("messages", ()))


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    answered = bool(messages) and messages[-1].role == "assistant"
    return messages[:-1] if answered else messages
