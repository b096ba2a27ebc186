"""Strict readers of answers: numbers as fractions and expressions as values, without eval.

Every reader reads the whole text or returns None: a right number with a second one beside it is not a number.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

MAX_CHARS = 2000
MAX_EXPONENT = 400  # decimal
OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u00f7": "/", "\u00b7": "*"})
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*\$?(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.(?P<decimals>[0-9]*))?"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,3}))?"
)
_EXPRESSION = re.compile(r"[0-9A-Za-z_ .+*/()\-]+")  # no comments, newlines, comparisons or strings
_RATIO = re.compile(r"(?P<top>[-+]?[0-9]+)\s*/\s*(?P<bottom>[0-9]+)")


def number(text: str) -> Fraction | None:
    """The exact value of -1,920 or 1920.50 or 1.92e3 or 3/4; a dollar sign before it is allowed."""
    text = text[: MAX_CHARS + 1].translate(_SIGNS).strip()
    if len(text) > MAX_CHARS:
        return None
    if ratio := _RATIO.fullmatch(text):
        bottom = int(ratio["bottom"])
        return Fraction(int(ratio["top"]), bottom) if bottom else None
    found = _NUMBER.fullmatch(text)
    if found is None or not (found["whole"] or found["decimals"]):
        return None
    exponent = int(found["exponent"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    digits, decimals = found["whole"].replace(",", "") or "0", found["decimals"] or ""
    value = Fraction(int(digits + decimals)) * Fraction(10) ** (exponent - len(decimals))
    return -value if found["sign"] == "-" else value


def numbers(texts: list[str]) -> list[Fraction] | None:
    """The number of every text; None if one can't be read."""
    found = [number(text) for text in texts]
    return None if None in found else [value for value in found if value is not None]


def arithmetic(text: str) -> tuple[Fraction, list[int]] | None:
    """The value of an expression of integers, + - * / and brackets, and the integers in it."""
    tree = parsed(text)
    used: list[int] = []
    try:
        return None if tree is None else (_value(tree, used), used)
    except (ZeroDivisionError, ValueError, RecursionError):
        return None


def parsed(text: str) -> ast.expr | None:
    """The syntax tree of an expression, None if it is not one; ^ is a power."""
    text = text.translate(_SIGNS).replace("^", "**").strip()
    if len(text) > MAX_CHARS or _EXPRESSION.fullmatch(text) is None:
        return None
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, used: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            used.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, used)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, used)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, used), _value(right, used)
            if type(op) not in OPERATORS:
                raise ValueError("an operator that is none of + - * /")
            return OPERATORS[type(op)](a, b)
        case _:
            raise ValueError("no arithmetic of whole numbers")
