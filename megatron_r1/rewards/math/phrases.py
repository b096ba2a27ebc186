"""Parsers of values in words: times of day, 2 h 30 min, 2 million, 三分之一.

All take the plain text (spelling.plain), and return None for a text that they can't read.
"""

import re
from fractions import Fraction

from megatron_r1.rewards.math.expression import Node, number
from megatron_r1.rewards.math.units import Unit, known_unit

_TIME = re.compile(
    r"(\d{1,2})(?::([0-5]\d))?(?::([0-5]\d))?\s*(?:([ap])\.?\s?m\.?|o'?clock\s*([ap])\.?\s?m\.?)",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\d{1,2}:[0-5]\d(?::[0-5]\d)?")
_PART = r"\d+(?:\.\d+)?\s*(?:[^\W\d_]+|°|'{1,2})\.?"
_COMPOUND = re.compile(rf"{_PART}(?:(?:\s*,?\s*(?:\band\b)?\s*){_PART})+")
_EACH_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([^\W\d_]+|°|'{1,2})")
_SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "万": 10**4, "亿": 10**8,
}  # fmt: skip
_SCALE = re.compile(rf"\s*({'|'.join(_SCALES)})(?![a-z])\s*", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:%|percent|per cent|pct|percentage(?: points?)?|个百分点)\s*", re.IGNORECASE)
_CHINESE_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"两": 2}
_CHINESE_FRACTION = re.compile(
    r"(百|[零一二两三四五六七八九十百]+)分之([零一二两三四五六七八九十百]+|[0-9.]+)"
)


def set_in_words(text: str) -> Node | None:
    """The set named in words: all real numbers, or the empty set."""
    words = text.casefold().removeprefix("the ")
    if words in ("all real numbers", "all reals", "real numbers", "全体实数"):
        return Node("named", value="reals")
    return Node("set") if words in ("empty set", "no solution", "no solutions", "空集", "无解") else None


def time_of_day(text: str) -> Node | None:
    """The time of 6:30 p.m. as hours, minutes and seconds. Without a.m. or p.m. (12:30) it may be a ratio."""
    match = _TIME.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= 12:
        return None
    hours = int(match[1]) % 12 + (12 if (match[4] or match[5]).casefold() == "p" else 0)
    return Node("time", tuple(number(n) for n in (hours, int(match[2] or 0), int(match[3] or 0))))


def is_clock(text: str) -> bool:
    """Whether a ratio looks like a time of day."""
    return _CLOCK.fullmatch(text) is not None


def compound(text: str) -> Node | None:
    """The quantity of 2 h 30 min, 45°30', or 5 feet and 3 inches, in its first unit."""
    if not _COMPOUND.fullmatch(text):
        return None
    parts = [(Fraction(value), known_unit(unit)) for value, unit in _EACH_PART.findall(text)]
    known = [(value, unit) for value, unit in parts if unit is not None]
    first = known[0][1] if known else None
    if (
        first is None
        or len(known) < len(parts)
        or any(unit.dimension != first.dimension for _, unit in known)
    ):
        return None
    if any(
        value * unit.factor >= larger.factor
        for (value, unit), (_, larger) in zip(known[1:], known, strict=False)
    ):
        return None  # 50 cm and 90 cm are two lengths
    total = sum((value * unit.factor for value, unit in known), Fraction(0))
    return Node("quantity", (number(total / first.factor),), first)


def scale_of(text: str) -> tuple[Fraction, str]:
    """The factor at the beginning of the text after a value (`million dollars`, `percent`), and the rest."""
    if _PERCENT.fullmatch(text):
        return Fraction(1, 100), ""
    match = _SCALE.match(text)
    return (Fraction(_SCALES[match[1].casefold()]), text[match.end() :]) if match else (Fraction(1), text)


def chinese_fraction(text: str) -> Node | None:
    """The value of 三分之一 or 百分之五."""
    match = _CHINESE_FRACTION.fullmatch(text)
    if match is None:
        return None
    bottom = _chinese(match[1])
    top = (
        Fraction(match[2])
        if match[2][0].isdigit() and match[2].count(".") < 2
        else Fraction(_chinese(match[2]))
    )
    return number(top / bottom) if bottom else None


def _chinese(text: str) -> int:
    total, digit = 0, 0
    for character in text:
        if character in "十百":
            total += (digit or 1) * (10 if character == "十" else 100)
            digit = 0
        else:
            digit = _CHINESE_DIGITS.get(character, 0)
    return total + digit


def with_currency(names: list[str]) -> tuple[int, Unit] | None:
    """How many of the first words of a quantity are a currency (`$`, `US $`, `Rs.`), and which one."""
    match names:
        case ["US" | "USD" | "AU" | "CAD" as country, "$", *_]:
            return 2, _currency("$" if country.startswith("US") else country)
        case ["Rs", ".", *_]:
            return 2, _currency("₹")
        case [name, *_] if name in ("$", "€", "£", "¥", "₹", "₽", "₩", "Rs", "USD", "EUR", "GBP", "RMB"):
            return 1, _currency(name)
        case _:
            return None


def _currency(name: str) -> Unit:
    return known_unit(name) or Unit(name.casefold())
