"""Equality of two trees, as far as it takes no algebra.

    order     does not matter in a list or set; does in a tuple, and in a list of named values
    names     `x = 5` equals 5; `x = 5` does not equal `y = 5`; `x_1 = 5` equals `x = 5`
    units     are converted if both are known, otherwise compared as text; a unit may be missing
    degrees   90° equals 90 without a unit, and \\frac{\\pi}{2}
    brackets  (1,2) is a point and an open interval, so it equals `1, 2` and `1 < x < 2`
    text      equals the same text, ignoring capitals
    time      12:30 equals no ratio; 6:30 p.m. equals 18:30

Two formulas, relations or sets that need algebra go to the caller's `algebra`.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

from megatron_r1.rewards.math.expression import PI, Node, divide, fraction_of, free_symbols, multiply, number
from megatron_r1.rewards.math.units import Unit

DEGREE = divide(PI, number(180))
MAX_ITEMS = 100
Algebra = Callable[[Node, Node], bool]
SETS = ("union", "intersection", "minus", "named")
FORMULAS = frozenset((
    "number", "constant", "symbol", "add", "mul", "power", "factorial", "factorial2", "binomial", "call",
    "log", "apply", "degrees",
))  # fmt: skip
_BACKWARDS = {">": "<", ">=": "<="}


class NeedsAlgebra(Exception):
    """The equality can't be decided without algebra."""


def no_algebra(gold: Node, given: Node) -> bool:
    raise NeedsAlgebra


class Equality:
    """Compares trees, by `algebra` where the structure does not decide."""

    def __init__(self, algebra: Algebra) -> None:
        self._algebra = algebra

    def any_of(self, gold: Sequence[Node], given: Sequence[Node]) -> bool:
        """Whether any reading of `gold` equals any of `given`; raises NeedsAlgebra if that is undecided."""
        undecided = None
        for g in gold:
            for a in given:
                try:
                    if self.equal(g, a):
                        return True
                except NeedsAlgebra as error:
                    undecided = error
        if undecided is not None:
            raise undecided
        return False

    def equal(self, gold: Node, given: Node) -> bool:
        """Whether two trees are equal."""
        if gold == given:
            return True
        gold, given = _settled(gold), _settled(given)
        if "text" in (gold.op, given.op):
            return gold == given
        if "relation" in (gold.op, given.op):
            return self._relations(gold, given)
        if "list" in (gold.op, given.op):
            return self._lists(gold, given)
        if gold.op in SETS or given.op in SETS:
            if gold.op == given.op in ("union", "intersection") and self._in_any_order(gold.args, given.args):
                return True
            return _may_be_set(gold) and _may_be_set(given) and self._algebra(gold, given)
        if "set" in (gold.op, given.op):
            return self._finite_sets(gold, given)
        if "bracket" in (gold.op, given.op) or "matrix" in (gold.op, given.op):
            return self._tuples(gold, given)
        if "quantity" in (gold.op, given.op):
            return self._quantities(gold, given)
        if gold.op in ("ratio", "time") or given.op in ("ratio", "time"):
            return self._ratios(gold, given)
        if "based" in (gold.op, given.op):
            return self._bases(gold, given)
        return self._formulas(gold, given)

    # Relations and names

    def _relations(self, gold: Node, given: Node) -> bool:
        (gold_name, gold_value), (given_name, given_value) = named(gold), named(given)
        if gold_name and given_name:
            if _same_name(gold_name, given_name) and _same_kind(gold, given):
                return self.equal(gold_value, given_value)
            return gold.op == given.op and self._algebra(gold, given)
        if gold_name or given_name:
            if gold.op == "relation" and given.op == "relation":
                if _is_order(gold) or _is_order(given):  # m >= 2 and m in [2, oo)
                    return self.equal(given_value if given_name else given, gold_value if gold_name else gold)
                return self._compared(gold, given)
            if gold_name and (given.op != "relation"):
                return self.equal(gold_value, given)
            return given_name is not None and gold.op != "relation" and self.equal(gold, given_value)
        if gold.op == given.op:
            return self._compared(gold, given)
        if gold.op == "list" or given.op == "list":
            return self._lists(gold, given)
        other = given if gold.op == "relation" else gold
        return (
            _is_order(gold if gold.op == "relation" else given)
            and _may_be_set(other)
            and self._algebra(gold, given)
        )

    def _compared(self, gold: Node, given: Node) -> bool:
        gold, given = _forwards(gold), _forwards(given)
        if gold == given:
            return True
        if gold.value != given.value and not (_is_order(gold) and _is_order(given)):
            return False
        return self._algebra(gold, given)

    # Collections

    def _lists(self, gold: Node, given: Node) -> bool:
        (gold_name, gold), (given_name, given) = named(gold), named(given)
        if gold_name and given_name and not _same_name(gold_name, given_name):
            return False
        if gold.op != "list" and given.op != "list":
            return self.equal(gold, given)
        if _says_orders(gold) or _says_orders(given):
            return self._orders(gold, given)
        if gold.op not in ("list", "set", "bracket") or given.op not in ("list", "set", "bracket"):
            return False
        ordered = "bracket" in (gold.op, given.op) or _differently_named(gold) != _differently_named(given)
        brackets = [node.value for node in (gold, given) if node.op == "bracket"]
        if any(value != "()" and len(gold.args) < 3 for value in brackets):
            return False
        if ordered:
            return self._in_order(_by_name(gold), _by_name(given))
        return self._in_any_order(gold.args, given.args)

    def _orders(self, gold: Node, given: Node) -> bool:
        """Equality of inequalities such as `x < 1 or x > 3`, as lists or as sets."""
        if gold.op == given.op == "list" and gold.value == given.value:
            same_length = len(gold.args) == len(given.args)
            if same_length and self._in_any_order(gold.args, given.args):
                return True
        return all(_may_be_set(n) or _says_orders(n) for n in (gold, given)) and self._algebra(gold, given)

    def _finite_sets(self, gold: Node, given: Node) -> bool:
        if gold.op == given.op:
            return self._in_any_order(_distinct(gold.args), _distinct(given.args))
        one, other = (gold, given) if gold.op == "set" else (given, gold)
        return len(one.args) == 1 and other.op != "bracket" and self.equal(one.args[0], other)

    def _tuples(self, gold: Node, given: Node) -> bool:
        gold, given = _as_tuple(gold), _as_tuple(given)
        if gold.op != given.op or (gold.op not in ("bracket", "matrix")):
            return False
        if gold.op == "matrix":
            return len(gold.args) == len(given.args) and all(
                self._in_order(g.args, a.args) for g, a in zip(gold.args, given.args, strict=True)
            )
        return (gold.value == given.value or len(gold.args) > 2) and self._in_order(gold.args, given.args)

    def _in_order(self, gold: Sequence[Node], given: Sequence[Node]) -> bool:
        return len(gold) == len(given) and all(self.equal(g, a) for g, a in zip(gold, given, strict=True))

    def _in_any_order(self, gold: Sequence[Node], given: Sequence[Node]) -> bool:
        if len(gold) != len(given) or len(gold) > MAX_ITEMS:
            return False
        left, undecided = list(given), []
        for item in gold:  # equal trees first, so that only the rest needs algebra
            if item in left:
                left.remove(item)
            else:
                undecided.append(item)
        for item in undecided:
            match = next((other for other in left if self.equal(item, other)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    # Quantities

    def _quantities(self, gold: Node, given: Node) -> bool:
        if gold.op != given.op:
            return self._with_bare(*((gold, given) if gold.op == "quantity" else (given, gold)))
        mine, yours = unit_of(gold), unit_of(given)
        if mine.dimension is not None and mine.dimension == yours.dimension:
            return self.equal(gold.args[0], multiply([given.args[0], number(yours.factor / mine.factor)]))
        if {mine.dimension, yours.dimension} == {(("degree", 1),), (("radian", 1),)}:
            return self.equal(_in_radians(gold), _in_radians(given))
        if mine.text.casefold() == yours.text.casefold():
            return self.equal(gold.args[0], given.args[0])
        if len(gold.args) == len(given.args) == 2:
            return self.equal(gold.args[1], given.args[1])
        return False

    def _with_bare(self, quantity: Node, other: Node) -> bool:
        """A quantity against a value without a unit."""
        if len(quantity.args) == 2 and free_symbols(other):
            return self.equal(quantity.args[1], other)
        if unit_of(quantity).dimension == (("degree", 1),) and fraction_of(other) is None:
            return self.equal(_in_radians(quantity), other) or self.equal(quantity.args[0], other)
        return self.equal(quantity.args[0], other)

    # Ratios and times

    def _ratios(self, gold: Node, given: Node) -> bool:
        gold, given = _as_time(gold, given), _as_time(given, gold)
        if gold.op == given.op == "time":
            return gold == given
        if "time" in (gold.op, given.op):
            return False
        if gold.op == given.op:
            if self._in_order(gold.args, given.args):
                return True
            if "clock" in (gold.value, given.value) or len(gold.args) != len(given.args):
                return False
            first, second = gold.args[0], given.args[0]
            return all(
                self.equal(multiply([g, second]), multiply([a, first]))
                for g, a in zip(gold.args[1:], given.args[1:], strict=True)
            )
        ratio, other = (gold, given) if gold.op == "ratio" else (given, gold)
        if ratio.value == "clock" or len(ratio.args) != 2 or fraction_of(ratio.args[1]) == 0:
            return False
        return other.op in FORMULAS and self.equal(divide(*ratio.args), other)

    def _bases(self, gold: Node, given: Node) -> bool:
        """101_2 equals 5_10 and, as the base may be left out, 101."""
        if gold.op == given.op:
            return _based(gold) == _based(given)
        based, other = (gold, given) if gold.op == "based" else (given, gold)
        digits, value = str(based.value).partition("_")[0], fraction_of(other)
        return value is not None and digits.isdigit() and value == int(digits)

    def _formulas(self, gold: Node, given: Node) -> bool:
        simple = ("number", "constant", "symbol")
        if gold.op in simple and given.op in simple:
            return gold == given
        return gold.op in FORMULAS and given.op in FORMULAS and self._algebra(gold, given)


def named(node: Node) -> tuple[str | None, Node]:
    """(name, value) of `x = 5`, `5 = x` or `x \\in A`; (None, the node) for anything else."""
    if node.op == "list":
        names = [named(item) for item in node.args]
        bases = {_base(name) if name else None for name, _ in names}
        if len(bases) == 1 and None not in bases:
            return names[0][0], Node("list", tuple(value for _, value in names), node.value)
        return None, node
    if node.op != "relation":
        return None, node
    operators = str(node.value).split()
    if set(operators) <= {"=", "~"}:
        name = _name(node.args[0])
        if name is not None:
            kept = [side for side, op in zip(node.args[1:], operators, strict=True) if op == "="]
            return name, (kept or node.args[1:])[-1]
        is_value = fraction_of(node.args[0]) is not None or node.args[0].op == "bracket"
        if operators == ["="] and is_value and (name := _name(node.args[1])):
            return name, node.args[0]
    if operators == ["in"] and (name := _name(node.args[0])) is not None:
        return name, node.args[1]
    return None, node


def unit_of(node: Node) -> Unit:
    assert isinstance(node.value, Unit)
    return node.value


def _settled(node: Node) -> Node:
    """The last side of a chain of equal constants such as 2 + 3 = 5, without approximations at its end."""
    if node.op != "relation" or not set(str(node.value).split()) <= {"=", "~"}:
        return node
    if _name(node.args[0]) is not None:
        return node
    operators = str(node.value).split()
    kept = [node.args[0], *(side for side, op in zip(node.args[1:], operators, strict=True) if op == "=")]
    if len(kept) == 1:
        return kept[0]
    if all(_worth_the_same(one, other) for one, other in pairwise(kept)):
        return kept[-1]
    return Node("relation", tuple(kept), " ".join("=" for _ in kept[1:]))


def _worth_the_same(one: Node, other: Node) -> bool:
    """Equality of rational constants, with known units or without: 5 cm × 3 cm, 5 × 3 and 15 cm^2."""
    quantities = [node for node in (one, other) if node.op == "quantity"]
    values = [fraction_of(node.args[0] if node.op == "quantity" else node) for node in (one, other)]
    first, second = values
    if first is None or second is None:
        return False
    if len(quantities) < 2:
        return first == second
    mine, yours = unit_of(one), unit_of(other)
    known = mine.dimension is not None and mine.dimension == yours.dimension
    return known and first * mine.factor == second * yours.factor


def _name(node: Node) -> str | None:
    if node.op == "symbol":
        return str(node.value)
    if node.op == "apply":
        return f"{node.value}({','.join(str(arg.value) for arg in node.args)})"
    if node.op == "bracket" and all(arg.op == "symbol" for arg in node.args):
        return f"({','.join(str(arg.value) for arg in node.args)})"
    return None


def _same_name(gold: str, given: str) -> bool:
    return gold == given or (("_" in gold) != ("_" in given) and _base(gold) == _base(given))


def _base(name: str) -> str:
    return name.partition("_")[0]


def _same_kind(gold: Node, given: Node) -> bool:
    """Whether both are assignments or both memberships, or the membership lists the values."""
    return all(
        node.op == "list" or node.value != "in" or node.args[1].op in (*SETS, "set", "bracket")
        for node in (gold, given)
    )


def _is_order(node: Node) -> bool:
    return node.op == "relation" and set(str(node.value).split()) <= {"<", "<=", ">", ">=", "!="}


def _says_orders(node: Node) -> bool:
    return node.op == "list" and bool(node.args) and all(_is_order(item) for item in node.args)


def _may_be_set(node: Node) -> bool:
    return node.op in (*SETS, "set") or _is_order(node) or (node.op == "bracket" and len(node.args) == 2)


def _forwards(node: Node) -> Node:
    """The relation with `>` turned round: c > b > a becomes a < b < c."""
    operators = str(node.value).split()
    if not set(operators) <= set(_BACKWARDS):
        return node
    return Node("relation", node.args[::-1], " ".join(_BACKWARDS[op] for op in reversed(operators)))


def _differently_named(node: Node) -> bool:
    names = {name for name, _ in map(named, node.args)} if node.op == "list" else set()
    return len(names) > 1 and None not in names


def _by_name(node: Node) -> tuple[Node, ...]:
    if not _differently_named(node):
        return node.args
    pairs = sorted((str(name), value) for name, value in map(named, node.args)) if _sortable(node) else []
    return tuple(value for _, value in pairs) if pairs else node.args


def _sortable(node: Node) -> bool:
    names = [name for name, _ in map(named, node.args)]
    return len(set(names)) == len(names)


def _distinct(items: Sequence[Node]) -> tuple[Node, ...]:
    return tuple(dict.fromkeys(items))


def _as_tuple(node: Node) -> Node:
    """A matrix of one row or column as a tuple."""
    if node.op == "matrix" and (len(node.args) == 1 or all(len(row.args) == 1 for row in node.args)):
        return Node("bracket", tuple(cell for row in node.args for cell in row.args), "()")
    return node


def _in_radians(node: Node) -> Node:
    is_degrees = unit_of(node).dimension == (("degree", 1),)
    return multiply([node.args[0], DEGREE, number(unit_of(node).factor)]) if is_degrees else node.args[0]


def _as_time(node: Node, other: Node) -> Node:
    """A ratio as a time of day if the other is one, in the same half of the day."""
    if node.op != "ratio" or node.value != "clock" or other.op != "time":
        return node
    hours, *rest = (fraction_of(part) or Fraction(0) for part in node.args)
    other_hours = fraction_of(other.args[0]) or Fraction(0)
    hours = other_hours if (hours - other_hours) % 12 == 0 and hours <= 12 else hours
    return Node("time", tuple(number(n) for n in [hours, *rest, *[Fraction(0)] * (2 - len(rest))]))


def _based(node: Node) -> int:
    digits, _, base = str(node.value).partition("_")
    return int(digits, int(base))
