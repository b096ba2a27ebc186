"""Parser of a formula's atoms: numbers, names, brackets, functions, fractions, matrices.

Adjacent letters are a product (`ab`, `2xyz`), except that two or more capitals (a segment, `AB`) and four or
more letters are one name. A name may have subscripts and primes.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from megatron_r1.rewards.math.cursor import split
from megatron_r1.rewards.math.expression import (
    INFINITY,
    PI,
    E,
    I,
    Node,
    NotMathematics,
    binomial,
    divide,
    fraction_of,
    multiply,
    number,
    power,
    root,
    symbol,
)
from megatron_r1.rewards.math.functions import FUNCTIONS, OF_SEVERAL, apply_function, function_name
from megatron_r1.rewards.math.spelling import plain
from megatron_r1.rewards.math.tokens import (
    ACCENTS,
    LETTERS,
    WORDS_OF_MATHEMATICS,
    Token,
    is_mathematical,
    is_name,
    tokens_of,
)

if TYPE_CHECKING:
    from megatron_r1.rewards.math.formula import Formula

APPLIED = "fgh"  # letters whose brackets hold arguments rather than factors
_CONSTANTS = {"pi": PI, "inf": INFINITY, "i": I}
_VARIANTS = {"varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi", "varrho": "rho"}
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "smallmatrix", "array")


class Atoms:
    """Reads atoms at a formula's position."""

    def __init__(self, formula: "Formula") -> None:
        self._formula = formula

    def read(self) -> Node:
        token = self._formula.take()
        match token.kind:
            case "number":
                return number(token.value or Fraction(0))
            case "based":
                return Node("based", value=token.text)
            case "letter":
                return self._letter(token)
            case "run":
                return self._run(token)
            case "text":
                return self._text(token)
            case "command":
                return self._command(token)
            case "sign":
                return self._sign(token)
            case _:
                raise NotMathematics(f"{token.text} is not known")

    def argument(self) -> Node:
        """An argument as in LaTeX: a group, or one digit, letter or command."""
        formula = self._formula
        token = formula.peek()
        if token is None:
            raise NotMathematics("an argument is missing")
        is_number = token.kind == "number" and token.text.isdigit() and not token.spaced
        if len(token.text) > 1 and (is_number or token.kind == "run"):
            formula.tokens = [
                *formula.tokens[: formula.position],
                *_parted(token),
                *formula.tokens[formula.position + 1 :],
            ]
        return formula.nested(formula.atom)

    # Brackets

    def _sign(self, token: Token) -> Node:
        if token.text in _CONSTANTS:
            return _CONSTANTS[token.text]
        if token.text in ("(", "[", "{", "{|"):
            return self._in_brackets(token)
        if token.text == "|":
            return self._between_bars()
        if token.text in ("lfloor", "lceil"):
            value = self._formula.nested(self._formula.sum)
            self._formula.expect("r" + token.text[1:])
            return apply_function(token.text[1:], [value])
        raise NotMathematics(f"{token.text} begins nothing")

    def _between_bars(self) -> Node:
        formula = self._formula
        formula.bars += 1
        value = formula.nested(formula.sum)
        formula.expect("|")
        formula.bars -= 1
        return apply_function("abs", [value])

    def _in_brackets(self, opening: Token) -> Node:
        formula = self._formula
        inside = formula.take_group()
        known = formula.bracket(inside, opening.text, formula.before().text)
        if known is not None:
            return known
        if opening.text == "{|":
            raise NotMathematics("braces around no set")
        return formula.inner(inside)

    # Names

    def _letter(self, token: Token) -> Node:
        formula = self._formula
        subscript = self._subscript()
        if not subscript and token.text in ("e", "i"):
            return E if token.text == "e" else I
        name = _VARIANTS.get(token.text, token.text) + subscript
        if token.text in APPLIED and formula.sign("("):
            formula.take()
            args = [formula.inner(part) for part in split(formula.take_group(), (",",))]
            return Node("apply", tuple(args), name)
        return symbol(name)

    def _subscript(self) -> str:
        """The subscript or primes of a name: `_{12}`, `_n`, `'`."""
        formula, name = self._formula, ""
        while formula.sign("_", "'"):
            if formula.take().text == "'":
                name += "'"
            elif formula.sign("{"):
                formula.take()
                name += "_" + plain(formula.text_of_group()).replace(" ", "")
            else:
                name += "_" + formula.take().text
        return name

    def _run(self, token: Token) -> Node:
        """Adjacent letters: a constant or function, a name, or factors, of which the last takes a power."""
        formula = self._formula
        if token.text in WORDS_OF_MATHEMATICS:
            return WORDS_OF_MATHEMATICS[token.text]
        if (name := function_name(token.text)) is not None:
            return self._function(name)
        if token.text in LETTERS or token.text.isupper() or len(token.text) > 3 or not token.text.isascii():
            return symbol(token.text + self._subscript())
        *first, last = (Token("letter", letter, token.start, token.end) for letter in token.text)
        factors = [E if t.text == "e" else I if t.text == "i" else symbol(t.text) for t in first]
        value = self._letter(last)
        if formula.sign("^"):
            formula.take()
            value = power(value, formula.nested(formula.exponent))
        return multiply([*factors, value])

    def _text(self, token: Token) -> Node:
        """Letters and numbers in a text command (\\mathrm{e}, \\mathbf{a}), but not words."""
        content = token.text
        if len(content) == 1 and content.isalpha():
            return self._letter(Token("letter", content, token.start, token.end))
        if (name := function_name(content)) is not None:
            return self._function(name)
        if is_name(content):
            return symbol(content + self._subscript())
        if not is_mathematical(content):
            raise NotMathematics(f"{content} is a text")
        return self._formula.inner(tokens_of(content, commas=True), content)

    # Commands

    def _command(self, token: Token) -> Node:
        name = token.text
        if name == "sqrt":
            return self._root()
        if name in FUNCTIONS:
            return self._function(name)
        if name in ACCENTS:
            return self._accented(name)
        match name:
            case "frac":
                top = self.argument()
                return divide(top, self.argument())
            case "binom":
                top = self.argument()
                return binomial(top, self.argument())
            case "begin":
                return self._matrix()
            case _:
                raise NotMathematics(f"\\{name} is not read")

    def _root(self) -> Node:
        formula = self._formula
        degree = number(2)
        if formula.sign("["):
            formula.take()
            degree = formula.inner(formula.take_group())
        return root(self.argument(), degree)

    def _accented(self, name: str) -> Node:
        """\\vec{AB}, \\angle ABC: a single name, whatever its content."""
        token = self._formula.take()
        content = (
            self._formula.text_of_group()
            if token.text == "{"
            else self._formula.source[token.start : token.end]
        )
        return symbol(f"{name} {plain(content)}" + self._subscript())

    def _function(self, name: str) -> Node:
        formula = self._formula
        exponent, base = None, None
        while formula.sign("^", "_"):
            if formula.take().text == "^":
                exponent = formula.nested(formula.exponent)
            else:
                base = self._base()
        args = self._function_arguments(name)
        if exponent is not None and fraction_of(exponent) == -1 and ("arc" + name) in FUNCTIONS:
            name, exponent = "arc" + name, None
        value = apply_function(name, args, base)
        return value if exponent is None else power(value, exponent)

    def _base(self) -> Node:
        """The base of a logarithm: all digits of `\\log_10`, where LaTeX would take only the first."""
        token = self._formula.peek()
        if token is not None and token.kind == "number":
            return number(self._formula.take().value or 0)
        return self.argument()

    def _function_arguments(self, name: str) -> list[Node]:
        formula = self._formula
        if formula.sign("("):
            formula.take()
            return [formula.inner(part) for part in split(formula.take_group(), (",",))]
        if name in OF_SEVERAL:
            raise NotMathematics(f"{name} without brackets")
        if formula.sign("{"):
            return [formula.nested(formula.atom)]
        factors = [formula.nested(formula.power if not formula.sign("-") else formula.exponent)]
        while formula.begins_factor() and not self._ends_argument():
            factors.append(formula.power())
        after = formula.peek(1)
        if formula.sign("/") and name not in ("log", "ln", "lg", "sqrt") and after and after.kind == "number":
            formula.take()  # \sin \pi/6
            return [divide(multiply(factors), formula.postfix())]
        return [multiply(factors)]

    def _ends_argument(self) -> bool:
        """Whether an argument without brackets ends here, before the next function or bracket."""
        token = self._formula.peek()
        if token is None or token.text == "(":
            return True
        return token.kind in ("command", "run", "text") and function_name(token.text) not in (None, "sqrt")

    # Matrices

    def _matrix(self) -> Node:
        formula = self._formula
        kind = self._environment()
        if kind not in _MATRICES:
            raise NotMathematics(f"the environment {kind}")
        if kind == "array" and formula.sign("{"):
            formula.take()
            formula.take_group()
        begin = formula.position
        while (token := formula.peek()) is not None and token.text != "end":
            formula.position += 1
        rows = _rows(formula.tokens[begin : formula.position])
        formula.take()
        if self._environment() != kind or len({len(row) for row in rows}) != 1:
            raise NotMathematics("a matrix that is not understood")
        cells = [Node("row", tuple(formula.inner(cell) for cell in row)) for row in rows]
        matrix = Node("matrix", tuple(cells))
        return apply_function("det", [matrix]) if kind == "vmatrix" else matrix

    def _environment(self) -> str:
        self._formula.expect("{")
        name = self._formula.take().text
        self._formula.expect("}")
        return name


def _rows(tokens: Sequence[Token]) -> list[list[Sequence[Token]]]:
    return [split(row, ("&",)) for row in split(tokens, ("newline",)) if row]


def _parted(token: Token) -> list[Token]:
    """The first digit or letter, and the rest."""
    kind = "letter" if token.kind == "run" else "number"
    rest_kind = "run" if kind == "letter" and len(token.text) > 2 else kind
    first, rest = token.text[0], token.text[1:]
    values = [Fraction(first), Fraction(rest)] if kind == "number" else [None, None]
    return [
        Token(kind, first, token.start, token.start + 1, token.spaced, values[0]),
        Token(rest_kind, rest, token.start + 1, token.end, False, values[1]),
    ]
