"""Numbers as people write them: `1,234.5`, `1 000`, `12,34,567`, `1.234,5`, `0{,}5`, `0.(3)`, `1e-3`.

A comma between digits has three meanings. It separates thousands before groups of three (`1,234`), unless the
number begins with 0 (`0,125` is one eighth); Indian lakhs in groups of two before a group of three; otherwise
two numbers. Where a list is as likely (`12,34,567`), the caller asks for both readings. Inside brackets a
comma separates numbers (`(1,234)` is a point), unless other commas there are followed by a space.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 1_000
MAX_SHOWN = 60  # digits before the dots of 0.333...

_THOUSANDS = r"[1-9][0-9]{0,2}(?:\{,\}[0-9]{3})+|[1-9][0-9]{0,2}(?:\ [0-9]{3})+|[1-9][0-9]{0,2}(?:'[0-9]{3})+"
_COMMAS = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|,[0-9])|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?![0-9]|,[0-9])"
_GERMAN = (
    r"[1-9][0-9]{0,2}(?:\.[0-9]{3})+,[0-9]+(?![0-9]|,[0-9])|[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,}(?![.,]?[0-9])"
)
_FRENCH = r"[1-9][0-9]{0,2}(?:\ [0-9]{3})+,[0-9]+(?![0-9]|,[0-9])"
_COMMA_POINT = r"[0-9]+\{,\}[0-9]+"
_LEADING_ZERO = r"0,[0-9]+(?![0-9]|,[0-9]|\.[0-9])"
_PERIOD = (
    r"\\(?:overline|bar)\s*\{?\s*(?P<bar>[0-9]+)\s*\}?|\((?P<paren>[0-9]+)\)|"
    r"\\dot\s*\{?(?P<dot>[0-9])\}?(?:(?P<inner>[0-9]*)\\dot\s*\{?(?P<last>[0-9])\}?)?"
)
_DOTS = r"\s*(?:\.\.\.|\\ldots|\\dots|\\cdots)"
_EXPONENT = r"(?:[eE](?P<exponent>[+-]?[0-9]{1,5})(?![0-9.A-Za-z]))?"
_DECIMAL = rf"(?P<whole>[0-9]*)\.(?P<decimals>[0-9]*)(?:{_PERIOD})|(?P<seen>[0-9]*\.[0-9]+){_DOTS}"
_REPEATING = re.compile(_DECIMAL)
_PLAIN = re.compile(rf"(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[0-9]+\.(?![.0-9])){_EXPONENT}")
_GROUPED = re.compile(rf"(?P<groups>{_THOUSANDS})(?![0-9])(?P<rest>\.[0-9]+)?")
_WITH_COMMAS = re.compile(
    rf"(?P<groups>{_COMMAS})(?P<rest>\.[0-9]+)?|(?P<german>{_GERMAN}|{_FRENCH})|(?P<zero>{_LEADING_ZERO})"
)
_POINT = re.compile(_COMMA_POINT)
_AMBIGUOUS = re.compile(
    r"(?<![0-9.])(?:(?<!-)0,[0-9]+|[1-9][0-9]?(?:,[0-9]{2})*,[0-9]{3}|[1-9][0-9]{2},[0-9]{3})(?![0-9])"
)
_MIXED = re.compile(r"(?P<whole>[0-9]+) +(?P<top>[0-9]+) */ *(?P<bottom>[0-9]+)(?![0-9.])")


@dataclass(frozen=True, slots=True)
class Literal:
    """A number at the beginning of a text: its value and the position of its end."""

    value: Fraction
    end: int


class TooLarge(ValueError):
    """The number is beyond the limits of exact computation."""


def is_ambiguous(text: str) -> bool:
    """Whether a comma between digits may separate numbers or be part of one."""
    return "," in text and _AMBIGUOUS.search(text) is not None


def read_literal(text: str, start: int, *, commas: bool) -> Literal | None:
    """The number that begins at start. commas: whether one may be part of it."""
    if match := _MIXED.match(text, start):
        top, bottom = int(match["top"]), int(match["bottom"])
        if 0 < top < bottom and not _GROUPED.match(text, start):
            return _literal(int(match["whole"]) + Fraction(top, bottom), match)
    if match := _REPEATING.match(text, start):
        value = _repeating(match)
        return None if value is None else _literal(value, match)
    if commas and (match := _WITH_COMMAS.match(text, start)):
        if match["groups"]:
            return _literal(Fraction(match["groups"].replace(",", "") + (match["rest"] or "")), match)
        if match["german"]:
            return _literal(
                Fraction(match["german"].replace(".", "").replace(" ", "").replace(",", ".")), match
            )
        return _literal(Fraction(match["zero"].replace(",", ".")), match)
    if match := _GROUPED.match(text, start):
        return _literal(Fraction(re.sub(r"\{,\}|[ ']", "", match["groups"]) + (match["rest"] or "")), match)
    if match := _POINT.match(text, start):
        return _literal(Fraction(match[0].replace("{,}", ".")), match)
    match = _PLAIN.match(text, start)
    return _literal(_plain(match), match) if match else None


def _literal(value: Fraction, match: re.Match[str]) -> Literal:
    return Literal(value, match.end())


def _plain(match: re.Match[str]) -> Fraction:
    if len(match["number"]) > MAX_DIGITS:
        raise TooLarge(f"a number of more than {MAX_DIGITS} digits")
    exponent = int(match["exponent"] or 0)
    if abs(exponent) > MAX_DIGITS:
        raise TooLarge(f"an exponent over {MAX_DIGITS}")
    return Fraction(match["number"].removesuffix(".")) * Fraction(10) ** exponent


def _repeating(match: re.Match[str]) -> Fraction | None:
    """The value of 1.2(34), or of 0.333... if the digits repeat at least once."""
    if len(match[0]) > MAX_DIGITS:
        raise TooLarge(f"a number of more than {MAX_DIGITS} digits")
    if match["seen"]:
        whole, _, digits = match["seen"].partition(".")
        found = re.fullmatch(r"([0-9]*?)([0-9]+?)\2+", digits) if len(digits) <= MAX_SHOWN else None
        if found is None:
            return None
        decimals, period = found[1], found[2]
    else:
        whole, decimals = match["whole"], match["decimals"]
        period = (
            match["bar"] or match["paren"] or match["dot"] + (match["inner"] or "") + (match["last"] or "")
        )
    scale = 10 ** len(decimals)
    head = Fraction(int(whole + decimals or "0"), scale)
    return head + Fraction(int(period), (10 ** len(period) - 1) * scale)
