"""Units after a value: 5 cm is not 5 m, and 100 cm is 1 m.

Within \\text{} or \\mathrm{} any letters are a unit; so is a bare word of three letters or more after a
space ("5 apples"). Other bare letters are one only if they stand in the table (`5x` is a product). An answer
without a unit is held against the value alone, as questions often ask "how many metres".
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_TABLE = {  # dimension -> {unit: factor}
    "length": {"mm": "1/1000", "cm": "1/100", "m": 1, "km": 1000},
    "inch-length": {"inch": 1, "ft": 12, "yard": 36, "mile": 63360},
    "mass": {"mg": "1/1000", "g": 1, "kg": 1000},
    "time": {"ms": "1/1000", "s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800},
    "volume": {"ml": "1/1000", "l": 1},
    "angle": {"degree": 1},
    "money": {"cent": "1/100", "dollar": 1},
}
_UNITS = {name: (kind, Fraction(factor)) for kind, units in _TABLE.items() for name, factor in units.items()}
_ALIASES = {
    "millimeter": "mm", "centimeter": "cm", "meter": "m", "kilometer": "km",
    "millimetre": "mm", "centimetre": "cm", "metre": "m", "kilometre": "km",
    "in": "inch", "inches": "inch", "foot": "ft", "feet": "ft",
    "milligram": "mg", "gram": "g", "kilogram": "kg",
    "millisecond": "ms", "sec": "s", "second": "s", "minute": "min", "hr": "h", "hour": "h",
    "milliliter": "ml", "liter": "l", "millilitre": "ml", "litre": "l", "mL": "ml", "L": "l",
    "deg": "degree",
}  # fmt: skip
_SPACE = r"(?:\\[ ,;!:]|~|\s)*"
_POWER = r"(?:\s*\^\s*\{?\s*(?P<power>[1-9])\s*\}?)?"
_IN_TEXT = re.compile(
    rf"(?P<value>.*[0-9)}}\]]){_SPACE}\\(?:text|textrm|mathrm|mbox|rm)\s*"
    rf"\{{\s*(?P<unit>[A-Za-z][A-Za-z ./]*?)\s*\}}{_POWER}",
    re.DOTALL,
)
_BARE = re.compile(
    rf"(?P<value>.*[0-9)}}\]]){_SPACE}(?P<unit>(?P<word>(?<=\s)[A-Za-z]{{3,}})|[A-Za-z]+)\.?{_POWER}",
    re.DOTALL,
)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\u00b0)$")
_PERCENT = re.compile(r"\s*\bpercent$")


@dataclass(frozen=True, slots=True)
class Unit:
    """A name for the dimension with its power, and the factor to the table's base unit."""

    dimension: str
    factor: Fraction


def split_unit(text: str) -> tuple[str, Unit | None]:
    """The value's text and its unit, None if it has none."""
    text = _PERCENT.sub("%", text.strip())
    if text.startswith(r"\$"):
        return text[2:].strip(), _unit("dollar", 1)
    if _DEGREES.search(text):
        return _DEGREES.sub("", text), _unit("degree", 1)
    if match := _IN_TEXT.fullmatch(text):
        return match["value"], _unit(match["unit"], int(match["power"] or 1))
    match = _BARE.fullmatch(text)
    if match and (_canonical(match["unit"]) in _UNITS or match["word"]):
        return match["value"], _unit(match["unit"], int(match["power"] or 1))
    return text, None


def _unit(name: str, power: int) -> Unit:
    canonical = _canonical(name)
    dimension, factor = _UNITS.get(canonical, (canonical, Fraction(1)))
    return Unit(dimension if power == 1 else f"{dimension}^{power}", factor**power)


def _canonical(name: str) -> str:
    for form in (name, name.lower(), name.lower().removesuffix("s")):
        form = _ALIASES.get(form, form)
        if form in _UNITS:
            return form
    return name.lower()
