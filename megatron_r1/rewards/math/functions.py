"""Functions by name, evaluated where the value is a rational number."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from megatron_r1.rewards.math.expression import (
    E,
    Node,
    NotMathematics,
    fraction_of,
    number,
    power,
    root,
)

FUNCTIONS = frozenset((
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc",
    "sinh", "cosh", "tanh", "coth", "arcsinh", "arccosh", "arctanh", "log", "ln", "lg", "exp", "sqrt",
    "cbrt", "gcd", "lcm", "max", "min", "floor", "ceil", "abs", "det", "sgn",
))  # fmt: skip
SPELLINGS = {
    "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh", "asin": "arcsin", "acos": "arccos",
    "atan": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc", "arctg": "arctan", "arcctg": "arccot",
    "sign": "sgn",
}  # fmt: skip
OF_SEVERAL = ("gcd", "lcm", "max", "min")
MAX_LOGARITHM = 1_000  # a larger one stays a logarithm
_ROUNDED: dict[str, Callable[[Fraction], Fraction | int]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "abs": abs,
}


def function_name(word: str) -> str | None:
    """The function of a word or command; None if it names none."""
    name = SPELLINGS.get(word, word)
    return name if name in FUNCTIONS else None


def apply_function(name: str, args: Sequence[Node], base: Node | None = None) -> Node:
    """The value of a function, or its node; base: of a logarithm."""
    if len(args) != 1 and name not in OF_SEVERAL:
        raise NotMathematics(f"{name} of {len(args)} arguments")
    if name in ("log", "ln", "lg"):
        return _logarithm(args[0], base or (E if name == "ln" else number(10)))
    if base is not None:
        raise NotMathematics(f"{name} with a subscript")
    if name == "exp":
        return power(E, args[0])
    if name in ("sqrt", "cbrt"):
        return root(args[0], number(2 if name == "sqrt" else 3))
    return _computed(name, args) or Node("call", tuple(args), name)


def _computed(name: str, args: Sequence[Node]) -> Node | None:
    values = [value for value in map(fraction_of, args) if value is not None]
    if not values or len(values) != len(args):
        return None
    if name in _ROUNDED:
        return number(_ROUNDED[name](values[0]))
    if name in ("max", "min"):
        return number(max(values) if name == "max" else min(values))
    if name in ("gcd", "lcm") and all(value.denominator == 1 for value in values):
        return number((math.gcd if name == "gcd" else math.lcm)(*(value.numerator for value in values)))
    return None


def _logarithm(value: Node, base: Node) -> Node:
    """The logarithm, as a number where it is whole: log_2 8 is 3."""
    if base == value:
        return number(1)
    if base == E and value.op == "power" and value.args[0] == E:
        return value.args[1]
    v, b = fraction_of(value), fraction_of(base)
    if v is not None and b is not None and b >= 2 and v >= 1:
        exponent, reached = 0, Fraction(1)
        while reached < v and exponent < MAX_LOGARITHM:
            reached, exponent = reached * b, exponent + 1
        if reached == v:
            return number(exponent)
    return Node("log", (value, base))
