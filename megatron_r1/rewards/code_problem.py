"""A programming problem with its tests, and whether a program's output is the expected one.

A prompt's metadata holds the tests, of one of two kinds:

    {"tests": [{"stdin": "3 4\\n", "stdout": "7\\n"}, ...]}                  a program
    {"function": "add", "tests": [{"args": [3, 4], "expected": 7}, ...]}    a function, or
                                                                                   a method of Solution

"tolerance" (absolute and relative) lets numbers differ; without it a program's output is compared as text
and a function's floats to nine digits. The prompt's reference, unless empty, is a program that must pass.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FLOAT_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Problem:
    """function: "" for a program. given: each test's arguments or standard input; expected: what it gives."""

    function: str
    given: tuple[Any, ...]
    expected: tuple[Any, ...]
    tolerance: float | None


class BadProblem(ValueError):
    """The tests can't be read: the item can't be graded."""


def read_problem(metadata: Mapping[str, Any]) -> Problem:
    """Raises BadProblem for anything that is not exactly as above."""
    tests, function = metadata.get("tests"), metadata.get("function", "")
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise BadProblem('metadata has no "tests"')
    if not isinstance(function, str) or not (function == "" or function.isidentifier()):
        raise BadProblem(f'"function" is no name: {function!r:.80}')
    tolerance = metadata.get("tolerance")
    if tolerance is not None and (isinstance(tolerance, bool) or not isinstance(tolerance, int | float)):
        raise BadProblem(f'"tolerance" is no number: {tolerance!r:.80}')
    keys, types = (("args", "expected"), (list, object)) if function else (("stdin", "stdout"), (str, str))
    for number, test in enumerate(tests, start=1):
        if not isinstance(test, Mapping) or set(test) != set(keys):
            raise BadProblem(f"test {number} must have {' and '.join(keys)} and nothing else")
        if not all(isinstance(test[key], type_) for key, type_ in zip(keys, types, strict=True)):
            raise BadProblem(f"test {number}: {' or '.join(keys)} has the wrong type")
    given, expected = (tuple(test[key] for test in tests) for key in keys)
    return Problem(function, given, expected, tolerance)


def same_output(expected: str, found: bytes, *, tolerance: float | None) -> bool:
    """Line by line; white space at the end of lines and of the whole does not count."""
    try:
        lines = _lines(found.decode("utf-8"))
    except UnicodeDecodeError:
        return False
    wanted = _lines(expected)
    if tolerance is None:
        return lines == wanted
    return len(lines) == len(wanted) and all(
        _same_words(a.split(), b.split(), tolerance) for a, b in zip(wanted, lines, strict=True)
    )


def same_value(expected: Any, reply: bytes, *, tolerance: float | None) -> bool:
    """reply: one line that a program wrote, JSON or not."""
    try:
        found = json.loads(reply)
    except (ValueError, RecursionError):  # UnicodeDecodeError and endless digits are ValueErrors
        return False
    return _equal(expected, found, FLOAT_TOLERANCE if tolerance is None else tolerance)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_words(expected: Sequence[str], found: Sequence[str], tolerance: float) -> bool:
    return len(expected) == len(found) and all(
        a == b or _close_words(a, b, tolerance) for a, b in zip(expected, found, strict=True)
    )


def _close_words(expected: str, found: str, tolerance: float) -> bool:
    try:
        return _close(float(expected), float(found), tolerance)
    except ValueError:
        return False


def _close(expected: float, found: float, tolerance: float) -> bool:
    return math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)


def _equal(expected: Any, found: Any, tolerance: float) -> bool:
    """Same types and values: True is not 1; an integer passes where a float was expected, not the reverse."""
    if isinstance(expected, float):
        number = isinstance(found, int | float) and not isinstance(found, bool)
        return number and _close(expected, _as_float(found), tolerance)
    if type(expected) is not type(found):
        return False
    if isinstance(expected, list):
        pairs = zip(expected, found, strict=False)
        return len(expected) == len(found) and all(_equal(a, b, tolerance) for a, b in pairs)
    if isinstance(expected, dict):
        keys = expected.keys()
        return keys == found.keys() and all(_equal(expected[k], found[k], tolerance) for k in keys)
    return expected == found


def _as_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
