"""Parser of formulas: recursive descent over sum > product > signed > power > postfix > atom (atoms.py).

A formula ends before a unit, a word or a text, which the caller reads.
An implicit product binds tighter than a slash before letters: `1/2x` is 1/(2x), but `1/2 x` is x/2.
"""

from collections.abc import Callable, Sequence

from megatron_r1.rewards.math.atoms import Atoms
from megatron_r1.rewards.math.cursor import Cursor
from megatron_r1.rewards.math.expression import (
    Node,
    NotMathematics,
    add,
    binomial,
    divide,
    factorial,
    fraction_of,
    multiply,
    negative,
    number,
    power,
)
from megatron_r1.rewards.math.functions import function_name
from megatron_r1.rewards.math.literals import TooLarge
from megatron_r1.rewards.math.spelling import plain
from megatron_r1.rewards.math.tokens import MAX_DEPTH, WORDS_OF_MATHEMATICS, Token, is_mathematical, is_name
from megatron_r1.rewards.math.units import NOTHING, is_bare_symbol, known_unit, read_unit

MAX_UNIT_TEXT = 120  # characters of LaTeX
BracketReader = Callable[[Sequence[Token], str, str], Node | None]  # what a bracket with commas in it is


def is_unit(text: str) -> bool:
    """Whether the text after a value is a unit and nothing else."""
    return known_unit(text) is not None or read_unit(text) is NOTHING


class Formula(Cursor):
    """Reads a formula from the tokens; `position` is where it ended.

    bracket: reads tuples, intervals and sets. units: whether the formula ends before a unit.
    """

    def __init__(
        self, tokens: Sequence[Token], source: str, *, bracket: BracketReader, units: bool, depth: int = 0
    ) -> None:
        super().__init__(tokens, source)
        self.bracket = bracket
        self.bars = 0  # how many | are open
        self._units = units
        self._depth = depth
        self._atoms = Atoms(self)

    def inner(self, tokens: Sequence[Token], source: str | None = None) -> Node:
        """The formula of a group of tokens, which must extend to the last token."""
        formula = Formula(
            tokens,
            self.source if source is None else source,
            bracket=self.bracket,
            units=self._units,
            depth=self._depth,
        )
        value = formula.nested(formula.sum)
        if formula.peek() is not None:
            raise NotMathematics("a group that is not understood")
        return value

    def nested(self, parse: Callable[[], Node]) -> Node:
        """parse(), one level deeper."""
        self._depth += 1
        if self._depth > 3 * MAX_DEPTH:
            raise TooLarge(f"more than {MAX_DEPTH} nested brackets")
        value = parse()
        self._depth -= 1
        return value

    def sum(self) -> Node:
        terms = [self.product()]
        while self.sign("+", "-", "pm", "mp"):
            sign = self.take().text
            term = self.product()
            if sign in ("pm", "mp"):
                terms.append(Node("either", (term,), sign))
            else:
                terms.append(negative(term) if sign == "-" else term)
        token = self.peek()
        if token is not None and token.kind == "command" and token.text == "choose":
            self.take()
            return binomial(add(terms), self.nested(self.sum))
        return add(terms)

    def product(self) -> Node:
        factors = [self._signed()]
        while self.peek() is not None:
            if self.sign("*"):
                self.take()
                factors.append(self._signed())
            elif self.sign("/"):
                self.take()
                factors.append(power(self._divisor(), number(-1)))
            elif self._times_ten():
                self.take()
                factors.append(self._signed())
            elif self.begins_factor():
                factors.append(self._juxtaposed(factors.pop()))
            else:
                break
        return multiply(factors)

    def _divisor(self) -> Node:
        divisor = [self._signed()]
        while self._binds_tighter():
            divisor.append(self.power())
        return multiply(divisor)

    def power(self) -> Node:
        base = self.postfix()
        if not self.sign("^"):
            return base
        self.position += 1
        return self._postfixed(power(base, self.nested(self.exponent)))

    def exponent(self) -> Node:
        if self.sign("+", "-"):
            is_negative = self.take().text == "-"
            exponent = self.nested(self.exponent)
            return negative(exponent) if is_negative else exponent
        exponent = self.atom()
        if self.sign("^"):
            self.position += 1
            return power(exponent, self.nested(self.exponent))
        return exponent

    def postfix(self) -> Node:
        return self._postfixed(self.atom())

    def atom(self) -> Node:
        return self._atoms.read()

    def argument(self) -> Node:
        return self._atoms.argument()

    def begins_factor(self) -> bool:
        """Whether the next token begins a factor of an implicit product."""
        token = self.peek()
        if token is None or self.at_unit():
            return False
        match token.kind:
            case "sign":
                if token.text == "|":
                    return not self.bars
                return token.text in ("(", "{", "[", "pi", "inf", "lfloor", "lceil", "i")
            case "number":
                return self.before().text in (")", "}", "]", "!", "!!") and not token.spaced
            case "text":
                return is_mathematical(token.text) or is_name(token.text)
            case "run":
                known = function_name(token.text) is not None or token.text in WORDS_OF_MATHEMATICS
                return known or _may_be_factors(token)
            case "command":
                return token.text not in ("begin", "end", "choose")
            case _:
                return token.kind == "letter"

    def at_unit(self) -> bool:
        """Whether the rest of the tokens is a unit after a value."""
        token = self.peek()
        if not self._units or token is None or self.position == 0:
            return False
        if token.kind == "sign" and token.text not in ("(", "°"):
            return False
        left = self.source[token.start : self.tokens[-1].end]
        if len(left) > MAX_UNIT_TEXT:
            return False
        if token.kind in ("letter", "run") and not self._may_be_unit(token, plain(left)):
            return False
        if token.text == "°" and left.strip() == "°":
            return False
        return token.kind in ("letter", "run", "text", "sign") and is_unit(left)

    def _may_be_unit(self, token: Token, left: str) -> bool:
        """Whether letters can be a unit: outside a text command only after a number, not after letters."""
        before = self.before()
        if before.kind != "number" and before.text not in ("}", ")", "]", "pi", "%"):
            return False
        if any(other.kind in ("letter", "run") for other in self.tokens[: self.position]):
            return False
        return token.kind == "run" or is_bare_symbol(token.text, spaced=token.spaced, left=left)

    def _juxtaposed(self, value: Node) -> Node:
        """An implicit product, or a mixed number: 2\\frac12 is 5/2."""
        factors = [value]
        while self.begins_factor():
            mixed = self._begins_mixed_part()
            factor = self.atom() if mixed else self.power()
            part, whole = fraction_of(factor), fraction_of(factors[-1])
            if mixed and part is not None and whole is not None and part > 0:
                mixed_number = number(whole - part if whole < 0 else whole + part)
                factors[-1] = self._postfixed(mixed_number)
            else:
                factors.append(factor)
        return multiply(factors)

    def _begins_mixed_part(self) -> bool:
        token, before = self.peek(), self.before()
        is_fraction = token is not None and token.kind == "command" and token.text == "frac"
        return is_fraction and before.kind == "number" and before.text.isdigit()

    def _binds_tighter(self) -> bool:
        token = self.peek()
        if token is None or token.spaced or self.at_unit():
            return False
        return token.kind in ("letter", "run", "text") or token.text in ("pi", "sqrt")

    def _times_ten(self) -> bool:
        """Whether `x 10^` follows, as in `2 x 10^3`."""
        ahead = [token.text if token else "" for token in map(self.peek, range(3))]
        return self.before().kind == "number" and ahead[0] in ("x", "X") and ahead[1:] == ["10", "^"]

    def _signed(self) -> Node:
        is_negative = False
        while self.sign("+", "-"):
            is_negative ^= self.take().text == "-"
        if self.sign("pm", "mp"):
            sign = self.take().text
            value = Node("either", (self.nested(self._signed),), sign)
        else:
            value = self.power()
            if is_negative and self._begins_mixed_part():  # -2\frac12 is -(2 + 1/2)
                value = self._juxtaposed(value)
        return negative(value) if is_negative else value

    def _postfixed(self, value: Node) -> Node:
        marks = 0
        while self.sign("!", "!!", "%", "°") and not self.at_unit():
            mark = self.take().text
            marks += 1
            if marks > MAX_DEPTH:
                raise TooLarge(f"more than {MAX_DEPTH} marks behind a value")
            if mark in ("!", "!!"):
                value = factorial(value, step=len(mark))
            else:
                value = divide(value, number(100)) if mark == "%" else Node("degrees", (value,))
        return value


def _may_be_factors(token: Token) -> bool:
    """Whether adjacent letters are factors or a name (`2ab`, `2AB`) rather than a word."""
    if not token.text.isascii() or (len(token.text) > 3 and not token.text.isupper()):
        return False
    return len(token.text) == 2 or not token.spaced or not token.text.islower()
