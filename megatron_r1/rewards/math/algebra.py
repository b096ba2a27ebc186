"""Equality of formulas, relations and sets by algebra, with sympy.

Only grading processes import this module: sympy is slow to load, and may run for ever.

Two formulas are equal if they agree at several points to 25 digits, and exactly where their values are
rational. Points are positive and negative; those where a root or a logarithm is not real are skipped. This is
quicker than simplifying the difference, and finds more equalities. Two equations are equal if one is a
multiple of the other or both have the same solutions; inequalities, intervals and set expressions are
compared as sets.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add, mul
from typing import Any

import sympy

from megatron_r1.rewards.math.equality import Equality
from megatron_r1.rewards.math.expression import Node, NotMathematics, fraction_of, free_symbols

DIGITS, AGREE = 40, sympy.Float("1e-25")
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "inf": sympy.oo}
_SAME_NAMES = (
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "sinh",
    "cosh",
    "tanh",
    "coth",
    "floor",
    "gcd",
    "lcm",
    "det",
)
_INVERSE = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
_CALLS = {
    **{name: getattr(sympy, name) for name in _SAME_NAMES},
    **{f"arc{name}": getattr(sympy, f"a{name}") for name in _INVERSE},
    "abs": sympy.Abs, "ceil": sympy.ceiling, "max": sympy.Max, "min": sympy.Min, "sgn": sympy.sign,
}  # fmt: skip
_ORDERS = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "=": sympy.Eq, "!=": sympy.Ne}
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
_SETS = {
    "reals": sympy.S.Reals, "integers": sympy.S.Integers, "naturals": sympy.S.Naturals,
    "rationals": sympy.S.Rationals, "complexes": sympy.S.Complexes,
}  # fmt: skip
_STATEMENTS = frozenset((
    "list", "set", "bracket", "relation", "union", "intersection", "minus", "matrix", "row", "quantity",
    "ratio", "named",
))  # fmt: skip
_SLOW = (sympy.gamma, sympy.factorial, sympy.factorial2, sympy.binomial)  # to many digits
_POINTS = (  # numerators over 1000: some within the unit interval, as arcsin asks
    (1371, 739, 2203, 417, 1867, 593), (613, 1291, 347, 2749, 829, 1567), (287, 431, 919, 173, 653, 541),
    (-877, -1523, -641, -2017, -359, -1109), (1213, -467, 1759, -983, 2311, -701),
)  # fmt: skip


def equal_statements(gold: Sequence[Node], given: Sequence[Node]) -> bool:
    """Whether any reading of `gold` equals any of `given`."""
    return Equality(_same).any_of(gold, given)


def is_readable(readings: Sequence[Node]) -> bool:
    """Whether all formulas of the first reading can be evaluated."""
    return all(_is_computable(node) for node in _formulas(readings[0]))


def _is_computable(node: Node) -> bool:
    try:
        return _agree(_expression(node), _expression(node)) is not None
    except (NotMathematics, TypeError, ValueError):
        return False


def _formulas(node: Node) -> list[Node]:
    """The largest formulas in a statement."""
    if node.op not in _STATEMENTS:
        return [] if node.op in ("text", "based", "time", "number") else [node]
    parts = node.args[:1] if node.op == "quantity" else node.args
    return [formula for part in parts for formula in _formulas(part)]


def _same(gold: Node, given: Node) -> bool:
    try:
        if gold.op == given.op == "relation" and "=" in str(gold.value).split() + str(given.value).split():
            return gold.value == given.value and _same_equations(gold, given)
        if gold.op in _STATEMENTS or given.op in _STATEMENTS:
            return _same_sets(gold, given) or _same_orders(gold, given)
        return bool(_agree(_expression(gold), _expression(given)))
    except NotMathematics:  # names for sets, a tuple in a sum: no algebra that is known here
        return False


def _expression(node: Node) -> Any:
    value = fraction_of(node)
    if value is not None:
        return sympy.Rational(value.numerator, value.denominator)
    args = [_expression(arg) for arg in node.args] if node.op != "matrix" else []
    match node.op:
        case "constant":
            return _CONSTANTS[str(node.value)]
        case "symbol":
            return sympy.Symbol(str(node.value), real=True)
        case "add":
            return reduce(add, args)
        case "mul":
            return reduce(mul, args)
        case "power":
            return args[0] ** args[1]
        case "degrees":
            return args[0] * sympy.pi / 180
        case "factorial":
            return sympy.factorial(args[0])
        case "factorial2":
            return sympy.factorial2(args[0])
        case "binomial":
            return sympy.binomial(*args)
        case "log":
            return sympy.log(args[0]) / sympy.log(args[1])
        case "call":
            return _CALLS[str(node.value)](*args)
        case "apply":
            names = ",".join(str(arg) for arg in args)
            return sympy.Symbol(f"{node.value}({names})", real=True)
        case "matrix":
            return sympy.Matrix([[_expression(cell) for cell in row.args] for row in node.args])
        case "bracket":
            return sympy.Matrix(args)
        case _:
            raise NotMathematics(f"no formula: {node.op}")


def _agree(gold: Any, given: Any) -> bool | None:
    """Whether two expressions agree at all points where both are defined; None if there is no such point."""
    if isinstance(gold, sympy.MatrixBase) or isinstance(given, sympy.MatrixBase):
        return _matrices_agree(gold, given)
    if gold == given:
        return True
    if gold.has(sympy.oo, sympy.zoo, sympy.nan) or given.has(sympy.oo, sympy.zoo, sympy.nan):
        return False
    symbols = sorted(gold.free_symbols | given.free_symbols, key=str)
    if len(symbols) > len(_POINTS[0]):
        return bool(sympy.expand(gold - given) == 0)
    is_complex = gold.has(sympy.I) or given.has(sympy.I)
    verdicts = []
    for point in _POINTS if symbols else _POINTS[:1]:
        values = {s: sympy.Rational(n, 1000) for s, n in zip(symbols, point, strict=False)}
        if is_complex or not symbols or (_is_defined(gold, values) and _is_defined(given, values)):
            verdicts.append(
                _agree_at(gold.xreplace(values), given.xreplace(values), is_complex or not symbols)
            )
    if not symbols and verdicts == [True] and not gold.has(*_SLOW) and not given.has(*_SLOW):
        verdicts = [_is_nothing(gold - given, beside=gold)]
    known = [verdict for verdict in verdicts if verdict is not None]
    return all(known) if known else None


def _is_defined(expression: Any, values: dict[Any, Any]) -> bool:
    """Whether all roots and logarithms in the expression are real at these values."""
    roots = [p.base for p in expression.atoms(sympy.Pow) if p.exp.is_Rational and not p.exp.is_Integer]
    arguments = [*roots, *(log.args[0] for log in expression.atoms(sympy.log))]
    return not any((value := sympy.N(arg.xreplace(values))).is_real and value < 0 for arg in arguments)


def _agree_at(gold: Any, given: Any, is_complex: bool) -> bool | None:
    if gold.is_Rational and given.is_Rational:
        return bool(gold == given)
    numbers = [sympy.N(value, DIGITS) for value in (gold, given)]
    if not all(n.is_number and n.is_finite for n in numbers):
        return None if not any(n.is_number and n.is_finite for n in numbers) else False
    real = [abs(sympy.im(n)) <= AGREE * (1 + abs(n)) for n in numbers]
    if not is_complex and not all(real):
        return False if any(real) else None
    return bool(abs(numbers[0] - numbers[1]) <= AGREE * max(abs(n) for n in numbers))


def _is_nothing(difference: Any, *, beside: Any) -> bool:
    """Whether a difference that is 0 to 25 digits is still 0 when computed with up to 1,000."""
    return bool(abs(sympy.N(difference, DIGITS, maxn=1000)) <= AGREE**4 * abs(sympy.N(beside)))


def _matrices_agree(gold: Any, given: Any) -> bool:
    if (
        not isinstance(gold, sympy.MatrixBase)
        or not isinstance(given, sympy.MatrixBase)
        or gold.shape != given.shape
    ):
        return False
    return all(_agree(g, a) for g, a in zip(gold, given, strict=True))


def _difference(relation: Node) -> Any:
    left, right = (_expression(side) for side in relation.args)
    return left - right


def _same_equations(gold: Node, given: Node) -> bool:
    if len(gold.args) != 2 or len(given.args) != 2:
        return len(gold.args) == len(given.args) and all(
            _agree(_expression(g), _expression(a)) for g, a in zip(gold.args, given.args, strict=True)
        )
    mine, yours = _difference(gold), _difference(given)
    factor = _multiple(mine, yours)
    return (factor is not None and factor != 0) or _same_solutions(mine, yours)


def _multiple(gold: Any, given: Any) -> Any:
    """The constant by which gold is a multiple of given; None if there is none."""
    symbols = sorted(gold.free_symbols | given.free_symbols, key=str)
    if gold == 0 or given == 0 or not symbols or len(symbols) > len(_POINTS[0]):
        return None
    point = {s: sympy.Rational(n, 1000) for s, n in zip(symbols, _POINTS[0], strict=False)}
    below = given.xreplace(point)
    if below == 0:
        return None
    factor = gold.xreplace(point) / below
    return factor if _agree(gold, given * factor) else None


def _same_solutions(gold: Any, given: Any) -> bool:
    """Whether both equations have the same solutions for one of their symbols."""
    if gold.free_symbols != given.free_symbols or not gold.free_symbols:
        return False
    for symbol in sorted(gold.free_symbols, key=str):
        try:
            mine, yours = sympy.solve(gold, symbol), sympy.solve(given, symbol)
        except NotImplementedError:
            continue
        if mine and yours:
            return len(mine) == len(yours) and all(any(_agree(m, y) for y in yours) for m in mine)
    return False


def _same_orders(gold: Node, given: Node) -> bool:
    """Whether one inequality is a multiple of the other, by a factor of the right sign."""
    if gold.op != "relation" or given.op != "relation" or len(gold.args) != len(given.args):
        return False
    if len(gold.args) > 2:
        return gold.value == given.value and all(
            _agree(_expression(g), _expression(a)) for g, a in zip(gold.args, given.args, strict=True)
        )
    factor = _multiple(_difference(gold), _difference(given))
    if factor is None or not factor.is_real:
        return False
    return (gold.value if factor > 0 else _FLIPPED[str(gold.value)]) == given.value


def _same_sets(gold: Node, given: Node) -> bool:
    if len(free_symbols(gold)) > 1 and gold.op == "relation":
        return False
    return any(_sets_agree(g, a) for g in _as_sets(gold) for a in _as_sets(given))


def _sets_agree(gold: Any, given: Any) -> bool:
    if gold == given:
        return True
    pieces = [sorted(s.args if isinstance(s, sympy.Union) else [s], key=_begin) for s in (gold, given)]
    if len(pieces[0]) == len(pieces[1]) and all(_intervals_agree(g, a) for g, a in zip(*pieces, strict=True)):
        return True
    return gold.symmetric_difference(given) == sympy.S.EmptySet


def _begin(piece: Any) -> Any:
    return sympy.default_sort_key(sympy.N(piece.inf)) if hasattr(piece, "inf") and piece.inf.is_number else ()


def _intervals_agree(gold: Any, given: Any) -> bool:
    if not isinstance(gold, sympy.Interval) or not isinstance(given, sympy.Interval):
        return bool(gold == given)
    open_ends = (gold.left_open, gold.right_open) == (given.left_open, given.right_open)
    return open_ends and bool(_agree(gold.start, given.start)) and bool(_agree(gold.end, given.end))


def _as_sets(node: Node) -> list[Any]:
    """The possible sets of a node; commas between inequalities may mean `and` or `or`."""
    if node.op == "list":
        parts = [_as_sets(arg)[0] for arg in node.args]
        both, either = sympy.Intersection(*parts), sympy.Union(*parts)
        known = {"and": [both], "or": [either]}.get(str(node.value), [both, either])
        return [s for s in known if s != sympy.S.EmptySet or len(known) == 1]
    return [_as_set(node)]


def _as_set(node: Node) -> Any:
    match node.op:
        case "named":
            return _SETS[str(node.value)]
        case "set":
            return sympy.FiniteSet(*map(_expression, node.args))
        case "union":
            return sympy.Union(*map(_as_set, node.args))
        case "intersection":
            return sympy.Intersection(*map(_as_set, node.args))
        case "minus":
            first, *others = map(_as_set, node.args)
            return sympy.Complement(first, sympy.Union(*others))
        case "bracket":
            left, right = map(_expression, node.args)
            opening, closing = str(node.value)
            return sympy.Interval(left, right, opening == "(", closing == ")")
        case "relation":
            return _solution_set(node)
        case _:
            raise NotMathematics(f"no set: {node.op}")


def _solution_set(node: Node) -> Any:
    sides = [_expression(side) for side in node.args]
    operators = str(node.value).split()
    links = [_ORDERS[op](a, b) for op, a, b in zip(operators, sides, sides[1:], strict=False)]
    return sympy.And(*links).as_set()
