"""Rational constants, exactly: LaTeX or plain arithmetic of +, -, *, /, ^, !, % and fractions.

math-verify compares numbers rounded to six decimals (1/2^99 = 1/2^98 for it) and evaluates 9^9^9^9 until
somebody stops it. Here a constant is a Fraction, and what would be larger than MAX_BITS is refused before
it is computed. Roots, letters and functions are not rational constants: None, for a symbolic grader.
"""

import math
import re
from collections.abc import Callable
from fractions import Fraction

from megatron_r1.rewards.numerals import without_separators

MAX_BITS = 40_000  # of a numerator or denominator; 2006! has 19,100
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 3_000
MAX_DEPTH = 30
MAX_DIGITS = 1_000  # of a literal

_SPELLINGS = (  # one spelling for what LaTeX writes in several ways
    (re.compile(r"\\left|\\right|\\[,!;:]|~|\\displaystyle"), " "),
    (re.compile(r"\\cdot(?![A-Za-z])|\\times(?![A-Za-z])|[\u00d7\u00b7\u22c5]"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|\u00f7"), "/"),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\\%"), "%"),
)
_TOKEN = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+|\\frac|[-+*/^!%(){}])")
_TOWER = re.compile(r"[0-9]+(?:\s*\^[{(\s]*-?[0-9]+)+")
_FACTORIAL = re.compile(r"([0-9]+)[)}\s]*!")
_LONG_DIGITS = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
_LONG_EXPONENT = re.compile(r"[0-9][eE][+-]?[0-9]{5}")
_ESCAPED = re.compile(r"\\[{}]")


class TooLarge(ValueError):
    """A number beyond the limits of this module."""


class _NotRational(ValueError):
    """The text is no rational constant."""


def rational(text: str) -> Fraction | None:
    """The value of a rational constant, None for anything else. TooLarge beyond the limits."""
    try:
        parser = _Parser(_tokens(without_separators(spelled(text))))
        value = parser.sum()
        return value if parser.at_end() else None
    except (_NotRational, ZeroDivisionError):
        return None


def refusal(text: str) -> str | None:
    """Why no grader should evaluate the text (brackets too deep, numbers too large); None if it may."""
    text = spelled(text)
    if _depth(text) > MAX_DEPTH:
        return f"more than {MAX_DEPTH} nested brackets"
    if _LONG_DIGITS.search(text):
        return f"a number of more than {MAX_DIGITS} digits"
    if _LONG_EXPONENT.search(text) or any(_is_high(tower.group()) for tower in _TOWER.finditer(text)):
        return f"an exponent over {MAX_EXPONENT}"
    if any(int(n[1]) > MAX_FACTORIAL for n in _FACTORIAL.finditer(text)):
        return f"the factorial of more than {MAX_FACTORIAL}"
    return None


def spelled(text: str) -> str:
    """The text with one spelling for each operator."""
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return text


def _depth(text: str) -> int:
    depth = deepest = 0
    for symbol in _ESCAPED.sub("", text):
        depth += (symbol in "([{") - (symbol in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _is_high(tower: str) -> bool:
    base, *exponents = (int(n) for n in re.findall(r"[0-9]+", tower))
    height = exponents.pop()
    for n in reversed(exponents):
        if n > 1 and height * math.log2(n) > math.log2(MAX_EXPONENT):
            return base > 1
        height = n**height
    return base > 1 and height > MAX_EXPONENT


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _NotRational
        tokens.append(match[1])
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent: sum > product > signed > power > postfix > atom."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0

    def at_end(self) -> bool:
        return self.position == len(self.tokens)

    def sum(self) -> Fraction:
        value = self._product()
        while (sign := self._peek()) in ("+", "-"):
            self.position += 1
            value = _bounded(value + self._product() if sign == "+" else value - self._product())
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while (token := self._peek()) in ("*", "/", "(", "{"):
            if token in ("*", "/"):
                self.position += 1
            factor = self._signed()
            value = _bounded(value / factor if token == "/" else value * factor)
        return value

    def _signed(self) -> Fraction:
        sign = 1
        while (token := self._peek()) in ("+", "-"):
            sign = -sign if token == "-" else sign
            self.position += 1
        return sign * self._power()

    def _power(self) -> Fraction:
        base = self._postfix()
        if self._peek() != "^":
            return base
        self.position += 1
        with_sign = self._nested(self._signed)  # right-associative: the exponent may hold a power itself
        return _raise(base, with_sign)

    def _postfix(self) -> Fraction:
        value = self._atom()
        while (token := self._peek()) in ("!", "%"):
            self.position += 1
            value = _factorial(value) if token == "!" else value / 100
        return value

    def _atom(self) -> Fraction:
        token = self._take()
        if token in ("(", "{"):
            value = self._nested(self.sum)
            self._expect(")" if token == "(" else "}")
            return value
        if token == "\\frac":
            numerator = self._frac_argument()
            return _bounded(numerator / self._frac_argument())
        if not (token[0].isdigit() or token[0] == "."):
            raise _NotRational
        if self._peek() == "\\frac" and token.isdigit():  # mixed number: 2\frac12 is 5/2
            return _literal(token) + self._atom()
        return _literal(token)

    def _frac_argument(self) -> Fraction:
        token = self._peek()
        if token == "{":
            return self._atom()
        if token is None or not token.isdigit():
            raise _NotRational
        digit, rest = token[0], token[1:]  # \frac12 is 1/2
        self.tokens[self.position : self.position + 1] = [rest] if rest else []
        return Fraction(int(digit))

    def _nested(self, parse: Callable[[], Fraction]) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"more than {MAX_DEPTH} nested brackets")
        value = parse()
        self.depth -= 1
        return value

    def _peek(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def _take(self) -> str:
        if self.at_end():
            raise _NotRational
        self.position += 1
        return self.tokens[self.position - 1]

    def _expect(self, token: str) -> None:
        if self._peek() != token:
            raise _NotRational
        self.position += 1


def _literal(token: str) -> Fraction:
    if len(token) > MAX_DIGITS:
        raise TooLarge(f"a number of more than {MAX_DIGITS} digits")
    return Fraction(token.removesuffix("."))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge(f"a number of more than {MAX_BITS} bits")
    return value


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise _NotRational
    if base in (0, 1, -1):
        return base ** (exponent.numerator if base else int(exponent))
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > MAX_EXPONENT or size * abs(exponent) > MAX_BITS:
        raise TooLarge(f"an exponent over {MAX_EXPONENT}")
    return base**exponent.numerator


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise _NotRational
    if value > MAX_FACTORIAL:
        raise TooLarge(f"the factorial of more than {MAX_FACTORIAL}")
    return Fraction(math.factorial(value.numerator))
