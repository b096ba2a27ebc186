"""Programming problems: reads the tests of a prompt, and compares a program's output with the expected one.

The tests are in the prompt's metadata, in one of two forms:

    {"tests": [{"stdin": "3 4\\n", "stdout": "7\\n"}, ...]}                  a program
    {"function": "add", "tests": [{"args": [3, 4], "expected": 7}, ...]}    a function, or
                                                                                   a method of Solution

"tolerance" (absolute and relative, up to MAX_TOLERANCE) lets numbers differ; without it a program's output is
compared as text and a function's floats to nine digits. Infinity and NaN equal only themselves. The prompt's
reference, unless empty, is a program that must pass.
"""

import json
import keyword
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FLOAT_TOLERANCE = 1e-9
MAX_TOLERANCE = 0.1  # a larger tolerance would accept most outputs of wrong programs
MAX_DEPTH = 100  # of nested lists in arguments and expected values
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)", re.I | re.ASCII)


@dataclass(frozen=True, slots=True)
class Problem:
    """function: "" for a program. given: each test's arguments or standard input; expected: its result."""

    function: str
    given: tuple[Any, ...]
    expected: tuple[Any, ...]
    tolerance: float | None


class BadProblem(ValueError):
    """The tests can't be read, so completions can't be graded."""


def read_problem(metadata: Mapping[str, Any]) -> Problem:
    """The problem. Raises BadProblem for other forms, and for tests that nothing or anything would pass."""
    tests, function = metadata.get("tests"), _function(metadata.get("function"))
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise BadProblem('metadata has no "tests"')
    tolerance = _tolerance(metadata.get("tolerance"))
    keys, types = (("args", "expected"), (list, object)) if function else (("stdin", "stdout"), (str, str))
    for number, test in enumerate(tests, start=1):
        if not isinstance(test, Mapping) or set(test) != set(keys):
            raise BadProblem(f"test {number} must have {' and '.join(keys)} and nothing else")
        if not all(isinstance(test[key], type_) for key, type_ in zip(keys, types, strict=True)):
            raise BadProblem(f"test {number}: {' or '.join(keys)} has the wrong type")
    given, expected = (tuple(test[key] for test in tests) for key in keys)
    problem = Problem(function, given, expected, tolerance)
    _check_expected(problem)
    return problem


def _function(name: Any) -> str:
    """The function's name in NFKC form, as Python normalises names (its reference, "Identifiers")."""
    if name is None or name == "":
        return ""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise BadProblem(f'"function" is no name: {name!r:.80}')
    return unicodedata.normalize("NFKC", name)


def _tolerance(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadProblem(f'"tolerance" is no number: {value!r:.80}')
    if not 0 <= value <= MAX_TOLERANCE:  # NaN is neither
        raise BadProblem(f'"tolerance" must be from 0 to {MAX_TOLERANCE}: {value!r:.80}')
    return float(value)


def _check_expected(problem: Problem) -> None:
    """Check that the expected results pass, and that a program that does nothing fails."""
    for number, (given, expected) in enumerate(zip(problem.given, problem.expected, strict=True), start=1):
        if _too_deep([given, expected]):
            raise BadProblem(f"test {number}: over {MAX_DEPTH} lists in one another")
        if not _passes(expected, problem):
            raise BadProblem(f"test {number}: what is expected is no JSON, or no UTF-8")
    if problem.function and all(expected is None for expected in problem.expected):
        raise BadProblem("every test expects null, which a function that does nothing gives")
    if not problem.function and not any(expected.strip() for expected in problem.expected):
        raise BadProblem("no test expects any output, so a program that does nothing would pass")


def _too_deep(level: Sequence[Any]) -> bool:
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, list | dict)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True


def _passes(expected: Any, problem: Problem) -> bool:
    try:
        if problem.function:
            return same_value(expected, json.dumps(expected).encode(), tolerance=problem.tolerance)
        return same_output(expected, expected.encode(), tolerance=problem.tolerance)
    except (TypeError, ValueError):  # no JSON, endless digits, a lone surrogate
        return False


def same_output(expected: str, found: bytes, *, tolerance: float | None) -> bool:
    """Equality line by line, ignoring white space at the ends of lines and of the output."""
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
    """Whether a reply, one line of output, is the JSON of the expected value."""
    try:
        found = json.loads(reply)
        return _equal(expected, found, FLOAT_TOLERANCE if tolerance is None else tolerance)
    except (ValueError, RecursionError):  # UnicodeDecodeError and endless digits are ValueErrors
        return False


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_words(expected: Sequence[str], found: Sequence[str], tolerance: float) -> bool:
    return len(expected) == len(found) and all(
        a == b or _close_words(a, b, tolerance) for a, b in zip(expected, found, strict=True)
    )


def _close_words(expected: str, found: str, tolerance: float) -> bool:
    if not _NUMBER.fullmatch(expected) or not _NUMBER.fullmatch(found):
        return False
    return _close(float(expected), float(found), tolerance)


def _close(expected: float, found: float, tolerance: float) -> bool:
    if math.isnan(expected) or math.isnan(found):
        return math.isnan(expected) and math.isnan(found)
    return math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)


def _equal(expected: Any, found: Any, tolerance: float) -> bool:
    """Equality of types and values: True is not 1; an integer passes for a float, but not the reverse."""
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
    """The number as float; NaN, which equals nothing, if the integer is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.nan
