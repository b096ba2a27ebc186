"""Strict JSON reader for files that others wrote: data, tokenizers, configurations and logs.

Python's own reader accepts what is not JSON, or fails in odd ways: NaN and Infinity, numbers that overflow to
infinity, duplicate keys (the last wins), half a surrogate pair (which UTF-8 can't hold), and deep nesting
(RecursionError). Here each raises NotJson, which says what is wrong and where (RFC 8259; I-JSON, RFC 7493).
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from megatron_r1.errors import R1Error
from megatron_r1.files.regular_file import read_bytes

MAX_DEPTH = 100
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE = re.compile("\\\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstandard", b"PAR1": "Parquet",
           b"BZh": "bzip2", b"\xfd7zXZ": "xz"}  # fmt: skip


class NotJson(ValueError):
    """The text is not valid JSON; the message says why, but not which file the text came from."""


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON text. Raises NotJson, and nothing else."""
    decoded = _decoded(text) if isinstance(text, bytes) else text
    try:
        value = _DECODER.decode(decoded)
    except json.JSONDecodeError as error:
        raise NotJson(_syntax(error)) from None
    except RecursionError:
        raise NotJson(f"nested deeper than {MAX_DEPTH} brackets") from None
    if decoded.count("[") + decoded.count("{") > MAX_DEPTH or _SURROGATE.search(decoded):
        _check_values(value)
    return value


def read_json(path: Path, *, error: type[R1Error], remedy: str) -> Any:
    """The value of a JSON file. Raises `error` with the path, what is wrong, and the remedy."""
    try:
        return parse_json(read_bytes(path, error=error, remedy=remedy))
    except NotJson as problem:
        raise error(f"{path}: not JSON: {problem}; {remedy}") from None


def read_json_object(path: Path, *, error: type[R1Error], remedy: str) -> dict[str, Any]:
    """As read_json, of a file that must hold an object."""
    content = read_json(path, error=error, remedy=remedy)
    if not isinstance(content, dict):
        raise error(f"{path}: a JSON object is needed, not {kind_of(content)}; {remedy}")
    return content


def kind_of(value: Any) -> str:
    """JSON's own name of a value's kind."""
    if value is None:
        return "null"
    kinds = {bool: "a truth value", int: "a number", float: "a number", str: "a string", list: "an array"}
    return kinds.get(type(value), "an object")


def record_of[T](kind: type[T], content: Any, *, where: str, error: type[R1Error], remedy: str) -> T:
    """A dataclass filled from a JSON object. Raises `error` where keys are missing or unknown."""
    assert is_dataclass(kind)
    known = {field.name for field in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    if not isinstance(content, dict):
        raise error(f"{where}: a JSON object is needed, not {kind_of(content)}; {remedy}")
    wrong = sorted(content.keys() - known) + sorted(needed - content.keys())
    if wrong:
        raise error(f"{where}: not what was written there: {', '.join(map(repr, wrong)):.200}; {remedy}")
    return kind(**content)


def _decoded(text: bytes) -> str:
    packed = next((name for mark, name in _PACKED.items() if text.startswith(mark)), None)
    if packed is not None:
        raise NotJson(f"a {packed} file; unpack it or convert it to text first")
    try:
        decoded = text.removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        wide = "; it may be UTF-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise NotJson(f"byte {error.start + 1} (0x{text[error.start]:02x}) is not UTF-8{wide}") from None
    if "\0" in decoded:
        raise NotJson(f"character {decoded.index(chr(0)) + 1} is NUL; the file is damaged or not UTF-8")
    return decoded


def _syntax(error: json.JSONDecodeError) -> str:
    if not error.doc.strip():
        return "it is empty"
    at = (
        f"line {error.lineno} column {error.colno}" if "\n" in error.doc.rstrip() else f"column {error.colno}"
    )
    return f"{error.msg} at {at}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise NotJson(f"the key {twice!r:.80} comes twice in one object")
    return found


def _constant(name: str) -> Any:
    raise NotJson(f"{name} is no number of JSON; leave the key out or write null")


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotJson(f"the number {digits:.40} is too large for a float")
    return number


def _int(digits: str) -> int:
    if len(digits) > 4000:  # Python converts 4,300 digits at most
        raise NotJson(f"the number {digits:.20}... has {len(digits)} digits")
    return int(digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_constant, parse_float=_float, parse_int=_int
)


def _check_values(value: Any) -> None:
    for depth, inner in _walk(value):
        if depth > MAX_DEPTH:
            raise NotJson(f"nested deeper than {MAX_DEPTH} brackets")
        if isinstance(inner, str) and not is_text(inner):
            raise NotJson(
                f"the string {inner!a:.80} holds half a surrogate pair, which no UTF-8 text can hold"
            )


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold it: no half of a surrogate pair is in it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _walk(value: Any) -> Iterator[tuple[int, Any]]:
    """Every value and key with its nesting depth, which counts its own brackets too."""
    pending = [(0, value)]
    while pending:
        depth, inner = pending.pop()
        inside = depth + isinstance(inner, dict | list)
        yield inside, inner
        if isinstance(inner, dict):
            pending.extend((inside, part) for pair in inner.items() for part in pair)
        elif isinstance(inner, list):
            pending.extend((inside, part) for part in inner)
