"""Whether an antiderivative differentiates to its integrand, with sympy and without sympy's parser.

reasoning-gym hands the answer to sympy.parse_expr, which is eval: the model's text becomes a program, and the
integral of the question, copied, differentiates to the integrand. Here the text is read as a syntax tree of
numbers, variables, operators and the functions below, and nothing else becomes an expression.

The derivative and the integrand are compared by their values to 45 digits at points where both are real.
That takes milliseconds where simplifying a difference to 0 may take minutes, and calls no right answer wrong
for the way it is written.
"""

import ast
import re
from typing import Any

from megatron_r1.gym.values import OPERATORS, parsed

FUNCTIONS = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "sinh", "cosh", "tanh",
     "asinh", "acosh", "atanh", "exp", "log", "ln", "sqrt", "Abs", "abs"]
)  # fmt: skip
NUMBERS = {"E": "E", "e": "E", "pi": "pi"}
CONSTANT = "[CcKk][0-9]?"  # of integration
LETTER = re.compile("[A-Za-z]")
MAX_POWER = 200
MAX_DIGITS = 30  # of a literal, so that no term can hide below the tolerance
_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
POINTS = tuple(
    f"{sign}{n}/{d}" for n, d in zip(_PRIMES, reversed(_PRIMES), strict=True) for sign in ("", "-")
)
MIN_POINTS = 3
DIGITS, TOLERANCE = 60, 1e-45


class NotReadable(ValueError):
    """The text is no expression of what this module knows."""


def is_antiderivative(answer: str, *, integrand: str, variable: str) -> bool:
    """Whether d(answer)/d(variable) is the integrand. NotReadable: the integrand can't be read."""
    import sympy

    names = re.compile(rf"{re.escape(variable)}|{CONSTANT}")
    of = _expression(integrand, names)
    try:
        slope = sympy.diff(_expression(answer, names), _symbol(variable))
    except NotReadable:
        return False
    agreed = 0
    for at in POINTS:
        right, found = (_real_value(expression, variable, at) for expression in (of, slope))
        if right is None or found is None:
            continue
        if abs(right - found) > TOLERANCE * (1 + abs(right)):
            return False
        agreed += 1
    return agreed >= MIN_POINTS


def is_same_form(answer: str, right: str) -> bool:
    """Whether both are the same expression but for the order of terms and factors; a product is no sum."""
    try:
        return bool(_expression(answer, LETTER) == _expression(right, LETTER))
    except NotReadable:
        return False


def _real_value(expression: Any, variable: str, at: str) -> Any | None:
    """The value at a point; None where it is infinite, not real, or holds another symbol."""
    import sympy

    value = expression.evalf(DIGITS, subs={_symbol(variable): sympy.Rational(at)}, maxn=1000)
    real, imaginary = value.as_real_imag()
    if not (real.is_number and real.is_finite and imaginary.is_number) or abs(imaginary) > TOLERANCE:
        return None
    return real


def _symbol(variable: str) -> Any:
    import sympy

    return sympy.Symbol(variable, real=True)


def _expression(text: str, names: re.Pattern[str]) -> Any:
    tree = parsed(text)
    if tree is None:
        raise NotReadable
    try:
        return _built(tree, names)
    except (RecursionError, ZeroDivisionError) as error:
        raise NotReadable from error


def _built(node: ast.expr, names: re.Pattern[str]) -> Any:
    import sympy

    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            literal = ast.unparse(node)
            if len(literal) > MAX_DIGITS:
                raise NotReadable
            return sympy.Rational(literal) if "e" not in literal and "inf" not in literal else _refuse()
        case ast.Name(id=name):
            return _named(name, names)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_built(operand, names)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _built(operand, names)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return getattr(sympy, "Abs" if name == "abs" else name)(_built(argument, names))
        case ast.BinOp(left=left, op=op, right=right):
            return _joined(op, _built(left, names), _built(right, names))
        case _:
            raise NotReadable


def _named(name: str, names: re.Pattern[str]) -> Any:
    import sympy

    if names.fullmatch(name):
        return _symbol(name)
    if name in NUMBERS:
        return getattr(sympy, NUMBERS[name])
    raise NotReadable


def _joined(op: ast.operator, a: Any, b: Any) -> Any:
    if type(op) in OPERATORS:
        return OPERATORS[type(op)](a, b)
    if isinstance(op, ast.Pow) and (not b.is_number or abs(b) <= MAX_POWER):
        return a**b
    raise NotReadable


def _refuse() -> Any:
    raise NotReadable
