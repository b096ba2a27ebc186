"""Verifier of antiderivatives: differentiates the answer with sympy, but doesn't use sympy's parser.

reasoning-gym passes the answer to sympy.parse_expr, which is eval: it executes the model's text, and accepts
the question's own integral, unevaluated, as the answer. Here the text is read as a syntax tree that may hold
only numbers, variables, operators and the functions below.

The derivative and the integrand are compared by value, to 45 digits, at points where both are real. This
takes milliseconds, where simplifying their difference to 0 can take minutes or fail for an unusual form.
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
CONSTANT = "[CcKk][0-9]?"  # names of the constant of integration
LETTER = re.compile("[A-Za-z]")
MAX_POWER = 200
MAX_DIGITS = 30  # of a literal, so that no term is smaller than the tolerance
_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
POINTS = tuple(
    f"{sign}{n}/{d}" for n, d in zip(_PRIMES, reversed(_PRIMES), strict=True) for sign in ("", "-")
)
MIN_POINTS = 3
DIGITS, TOLERANCE = 60, 1e-45


class NotReadable(ValueError):
    """The text is not an expression that this module can read."""


def is_antiderivative(answer: str, *, integrand: str, variable: str) -> bool:
    """Whether d(answer)/d(variable) is the integrand. Raises NotReadable if the integrand can't be read."""
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
    """Whether both are the same expression up to the order of terms and factors, without expanding."""
    try:
        return bool(_expression(answer, LETTER) == _expression(right, LETTER))
    except NotReadable:
        return False


def _real_value(expression: Any, variable: str, at: str) -> Any | None:
    """The value at a point; None if it is infinite, not real, or contains another symbol."""
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
