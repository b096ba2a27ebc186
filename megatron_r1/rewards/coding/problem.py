"""A programming problem with its tests, and whether a program's output is the expected one.

A prompt's metadata holds the tests, of one of two kinds:

    {"tests": [{"stdin": "3 4\\n", "stdout": "7\\n"}, ...]}                  a program
    {"function": "add", "tests": [{"args": [3, 4], "expected": 7}, ...]}    a function, or
                                                                                   a method of Solution

"tolerance" (absolute and relative, up to MAX_TOLERANCE) lets numbers differ; without it a program's output is
compared as text and a function's floats to nine digits. Infinity equals itself and no other number, as NaN
does. The prompt's reference, unless empty, is a program that must pass.
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
MAX_TOLERANCE = 0.1  # beyond that "about right" is most of what a wrong program writes
MAX_DEPTH = 100  # of lists in lists among arguments and expected values
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)", re.I | re.ASCII)


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
    """Raises BadProblem for anything that is not exactly as above, or that nothing or anything would pass."""
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
    """As Python reads names: in compatibility form (its reference, "Identifiers")."""
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
    """What is expected must pass, and doing nothing must not."""
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
    """NaN, which no number equals, for an integer that no float holds."""
    try:
        return float(number)
    except OverflowError:
        return math.nan
