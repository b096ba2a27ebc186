"""Expression tree, in which rational constants are computed while it is built.

A rational constant is one `number` node with an exact Fraction, so that 1/2^99 is not 1/2^98. A number larger
than MAX_BITS is refused before it is computed. Rational roots and logarithms become numbers too; anything
else that takes algebra stays a tree.

Operators: add mul power factorial factorial2 binomial call log apply degrees either matrix; leaves: number,
constant (pi e i inf), symbol. Statements above them: list set bracket relation union intersection minus named
quantity ratio time based text.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from megatron_r1.rewards.math.literals import TooLarge
from megatron_r1.rewards.math.units import Unit

MAX_BITS = 40_000  # of a numerator or denominator; 2006! has 19,100
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 3_000


class NotMathematics(ValueError):
    """The text is not mathematics that this package can parse."""


@dataclass(frozen=True, slots=True)
class Node:
    """An operator and its arguments; value: of a leaf, or a further parameter of the operator."""

    op: str
    args: tuple["Node", ...] = ()
    value: Fraction | str | Unit | None = None

    def walk(self) -> Iterator["Node"]:
        """This node and all below it."""
        yield self
        for arg in self.args:
            yield from arg.walk()


def number(value: Fraction | int) -> Node:
    value = value if isinstance(value, Fraction) else Fraction(value)
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge(f"a number of more than {MAX_BITS} bits")
    return Node("number", value=value)


def symbol(name: str) -> Node:
    return Node("symbol", value=name)


PI, E, I, INFINITY = (Node("constant", value=name) for name in ("pi", "e", "i", "inf"))  # noqa: E741
ONE, MINUS_ONE = number(1), number(-1)


def fraction_of(node: Node) -> Fraction | None:
    """The value of a rational constant; None for any other node."""
    return node.value if node.op == "number" and isinstance(node.value, Fraction) else None


def add(terms: Sequence[Node]) -> Node:
    terms = _flat("add", terms)
    values = [fraction_of(term) for term in terms]
    rest = [term for term, value in zip(terms, values, strict=True) if value is None]
    total = number(sum((v for v in values if v is not None), Fraction(0)))
    if not rest:
        return total
    kept = rest if total.value == 0 else [*rest, total]
    return kept[0] if len(kept) == 1 else Node("add", tuple(kept))


def multiply(factors: Sequence[Node]) -> Node:
    product, rest = ONE, []
    for factor in _flat("mul", factors):
        value = fraction_of(factor)
        if value is None:
            rest.append(factor)
        else:
            product = number(_of(product) * value)
    if not rest:
        return product
    kept = rest if product.value == 1 else [product, *rest]
    return kept[0] if len(kept) == 1 else Node("mul", tuple(kept))


def _flat(op: str, nodes: Sequence[Node]) -> list[Node]:
    return [part for node in nodes for part in (node.args if node.op == op else (node,))]


def negative(node: Node) -> Node:
    return multiply([MINUS_ONE, node])


def divide(top: Node, bottom: Node) -> Node:
    return multiply([top, power(bottom, MINUS_ONE)])


def power(base: Node, exponent: Node) -> Node:
    b, e = fraction_of(base), fraction_of(exponent)
    if base == I and e is not None and e.denominator == 1:
        return (ONE, I, MINUS_ONE, negative(I))[e.numerator % 4]
    if e is not None and abs(e) > MAX_EXPONENT and b not in (0, 1, -1):
        raise TooLarge(f"an exponent over {MAX_EXPONENT}")
    if b is None or e is None:
        return base if e == 1 else Node("power", (base, exponent))
    if b == 0 and e < 0:
        raise NotMathematics("division by zero")
    if e.denominator != 1:
        root = _root(b, e.denominator)
        return Node("power", (base, exponent)) if root is None else power(number(root), number(e.numerator))
    if b in (0, 1, -1):
        return number(b ** (e.numerator % 2 if b else e.numerator)) if b else number(0 if e else 1)
    if max(b.numerator.bit_length(), b.denominator.bit_length()) * abs(e) > MAX_BITS:
        raise TooLarge(f"a number of more than {MAX_BITS} bits")
    return number(b**e.numerator)


def root(base: Node, degree: Node) -> Node:
    """The real root; a negative number has one if the degree is odd."""
    b, n = fraction_of(base), fraction_of(degree)
    if b is not None and n is not None and b < 0 and n.denominator == 1 and n % 2:
        return negative(power(number(-b), number(1 / n)))
    return power(base, power(degree, MINUS_ONE))


def factorial(node: Node, *, step: int = 1) -> Node:
    """n!, or n!! with step 2."""
    n = fraction_of(node)
    if n is None:
        return Node("factorial" if step == 1 else "factorial2", (node,))
    if n.denominator != 1 or n < 0:
        raise NotMathematics("the factorial of no natural number")
    if n > MAX_FACTORIAL:
        raise TooLarge(f"the factorial of more than {MAX_FACTORIAL}")
    return number(math.factorial(int(n)) if step == 1 else math.prod(range(int(n), 0, -2)))


def binomial(top: Node, bottom: Node) -> Node:
    n, k = fraction_of(top), fraction_of(bottom)
    if n is None or k is None or n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        return Node("binomial", (top, bottom))
    if n > MAX_FACTORIAL:
        raise TooLarge(f"a binomial of more than {MAX_FACTORIAL}")
    return number(math.comb(int(n), int(k)))


def free_symbols(node: Node) -> frozenset[str]:
    return frozenset(str(n.value) for n in node.walk() if n.op == "symbol")


def _of(node: Node) -> Fraction:
    assert isinstance(node.value, Fraction)
    return node.value


def _root(value: Fraction, degree: int) -> Fraction | None:
    """The exact rational root, None if there is none; of a negative value, the real root of odd degree."""
    if value < 0:
        positive = _root(-value, degree) if degree % 2 else None
        return None if positive is None else -positive
    top, bottom = _whole_root(value.numerator, degree), _whole_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _whole_root(value: int, degree: int) -> int | None:
    if value < 2:
        return value
    if degree == 2:
        found = math.isqrt(value)
        return found if found * found == value else None
    if degree > value.bit_length():
        return None
    low, high = 1, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return low if low**degree == value else None
