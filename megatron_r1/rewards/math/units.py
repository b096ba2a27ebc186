"""Parser of units after a value: 5 cm is not 5 m, and 100 cm is 1 m.

A known unit has a dimension and an exact factor (unit_table.py), and so have products of these (`km/h`,
`kg·m^2`, `m s^{-2}`, `square metres`, `千米/时`). Other units (`apples`) are compared as text. A value
without a unit is compared by its number only, as questions often ask "how many metres"; `units`, `square
units` and ordinals (`3rd`) count as no unit.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from megatron_r1.rewards.math.spelling import normal, plain
from megatron_r1.rewards.math.unit_table import UNITS, Parsed, raised

Dimension = tuple[tuple[str, int], ...]  # powers of the bases, in order of their names

MAX_UNIT_CHARS, MAX_UNIT_WORDS = 40, 4
_SAYS_NOTHING = frozenset(("st", "nd", "rd", "th", "in total", "total"))
_GENERIC = re.compile(r"(?:(?:square|sq\.?|cubic|cu\.?) ?)?units?(?:\^[23]| squared| cubed)?")
_NO_UNIT = re.compile(
    r"^(?:or|and)\b|\b(?:is|are|was|not|if|when|where|because|but|except|than|unless|january|february|march|april|may|june|july|"
    r"august|september|october|november|december)\b"
)
_BARE, _BARE_SPACED = frozenset("mshgL"), frozenset("mshgLlNJWVACK")  # other letters are variables
_BETWEEN = re.compile(r"\s*(?:[*·.]|(?=[\s(]))\s*")
_NAME = re.compile(r"[°$€£¥₹₽₩¢Ω]*[^\W\d_]+\$?|[°$€£¥₹₽₩¢Ω]|'{1,2}")
_EXPONENT = re.compile(r"\s*\^\(?([+-]?[0-9])\)?|\s+(squared|cubed)\b")
_POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_SPELLINGS = (
    (re.compile(r"\s*\bper\b\s*|\s*每\s*|\s*/\s*"), "/"),
    (re.compile(r"\bdegrees? (?=celsius|fahrenheit)", re.IGNORECASE), ""),
    (re.compile(r"\bU\.?S\.? (?=dollars?\b)", re.IGNORECASE), ""),
    (re.compile(r"\b([kM]) (?=Ω)"), r"\1"),
    (re.compile(r"°\s+(?=[CFcf]\b)"), "°"),
)


@dataclass(frozen=True, slots=True)
class Unit:
    """text: its normal form. dimension and factor to the base units, if it is known."""

    text: str
    dimension: Dimension | None = None
    factor: Fraction = Fraction(1)


NOTHING = Unit("", ())


@lru_cache(maxsize=16_384)
def read_unit(text: str) -> Unit | None:
    """The unit of a (spelled) text, in the table or not; None if it can't be a unit."""
    words = normal(text).strip(" .,;:()")
    if not words or words in _SAYS_NOTHING or _GENERIC.fullmatch(words):
        return NOTHING
    known = known_unit(text)
    if known is not None:
        return known
    if _NO_UNIT.search(words):
        return None
    is_short = len(words) <= MAX_UNIT_CHARS and len(words.split()) <= MAX_UNIT_WORDS
    if not is_short or not re.search(r"[^\W\d_]", words):
        return None
    return Unit(" ".join(_singular(word) for word in words.split()))


@lru_cache(maxsize=16_384)
def known_unit(text: str) -> Unit | None:
    """The unit of a (spelled) text, if it is in the table or a product of such units."""
    words = text.strip()
    if words not in UNITS:
        words = plain(text).strip(" .,;:")
        for pattern, spelling in _SPELLINGS:
            words = pattern.sub(spelling, words)
    parsed = _product(words, 0) if 0 < len(words) <= MAX_UNIT_CHARS else None
    if parsed is None or parsed[1] != len(words):
        return None
    powers, factor = parsed[0]
    return Unit(words, tuple(sorted((base, n) for base, n in powers.items() if n)), factor)


def product_of_units(units: Sequence[Unit]) -> Unit | None:
    """The unit of a product of quantities; None if one has no known dimension."""
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for unit in units:
        if unit.dimension is None:
            return None
        for base, n in unit.dimension:
            powers[base] = powers.get(base, 0) + n
        factor *= unit.factor
    text = "*".join(unit.text for unit in units)
    return Unit(text, tuple(sorted((base, n) for base, n in powers.items() if n)), factor)


def is_bare_symbol(letter: str, *, spaced: bool, left: str) -> bool:
    """Whether a single letter after a number, outside a text command, may be a unit rather than a variable.

    left: the rest of the text; a quotient or a product of units is less ambiguous than a letter.
    """
    return any(sign in left for sign in "/*Ωµμ") or letter in (_BARE_SPACED if spaced else _BARE)


def _product(text: str, at: int) -> tuple[Parsed, int] | None:
    """The product of units that begins at `at`, and its end; units after a slash are divided by."""
    powers: dict[str, int] = {}
    factor, sign = Fraction(1), 1
    while True:
        found = _factor(text, at)
        if found is None:
            return None
        (more, scale), at = found
        for base, n in more.items():
            powers[base] = powers.get(base, 0) + sign * n
        factor *= scale**sign
        if text[at : at + 1] == "/":
            sign, at = -1, at + 1
        elif at < len(text) and text[at] != ")" and (match := _BETWEEN.match(text, at)):
            at = match.end()
        else:
            return (powers, factor), at


def _factor(text: str, at: int) -> tuple[Parsed, int] | None:
    if text[at : at + 1] == "(":
        inside = _product(text, at + 1)
        closes = inside is not None and text[inside[1] : inside[1] + 1] == ")"
        return _to_exponent(inside[0], text, inside[1] + 1) if inside is not None and closes else None
    match = _NAME.match(text, at)
    if match is None:
        return None
    power = _POWER_WORDS.get(match[0].casefold())
    if power is not None:
        rest = re.compile(r"[. ]*").match(text, match.end())
        inner = _factor(text, rest.end() if rest else match.end())
        return None if inner is None else (raised(inner[0], power), inner[1])
    parsed = _named(match[0])
    return None if parsed is None else _to_exponent(parsed, text, match.end())


def _to_exponent(parsed: Parsed, text: str, at: int) -> tuple[Parsed, int]:
    match = _EXPONENT.match(text, at)
    if match is None:
        return parsed, at
    return raised(parsed, int(match[1]) if match[1] else _POWER_WORDS[match[2]]), match.end()


def _named(name: str) -> Parsed | None:
    """The unit of a symbol, or of a name in any case, singular or plural."""
    if name in UNITS or len(name) == 1:
        return UNITS.get(name)
    lower = name.casefold()
    return UNITS.get(lower) or UNITS.get(_singular(lower))


def _singular(word: str) -> str:
    if len(word) < 3 or word.endswith("ss"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "xes")) else word.removesuffix("s")
