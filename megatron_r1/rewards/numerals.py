"""Literals that are compared exactly: numbers as fractions, choices as letters, text in a normal form.

No floats and no eval. Only ASCII and full-width digits (as Chinese text has them) are digits: a
superscript two or an Arabic-Indic three is not, though Python's int() would read the latter.
Every parser returns None for what it can't read.
"""

import re
import unicodedata
from fractions import Fraction

MAX_LITERAL_CHARS = 1000

# full-width ASCII (digits, signs, brackets, letters) to ASCII, with the signs that stand for - , .
_ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    ord("\u2212"): "-",
    ord("\u2013"): "-",
    ord("\u3002"): ".",
    ord("\u00a0"): " ",
}
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_SEPARATOR = r"(?:,\\!|,|\{,\}|\\,|[\u2009\u202f])"  # also as LaTeX writes it; thin spaces
_GROUPED = re.compile(rf"([+-]?[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}})+)(?![0-9])")
_INTEGER = re.compile(r"[+-]?[0-9]+(?:\.0*)?")
_DECIMAL = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?")
_SLASHED = re.compile(r"([+-]?)\s*([0-9]+)\s*/\s*([0-9]+)")
_FRAC = re.compile(
    r"([+-]?)\s*([0-9]*)\s*\\[dt]?frac\s*(?:\{\s*(-?[0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))"
)
_CHOICE = re.compile(r"\(?\s*([A-Ja-j])\s*\)?\s*(?:[.:)](?:\s.*)?)?", re.DOTALL)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")


def clean(text: str) -> str:
    """Without the dress around an answer: maths delimiters, bold, a final full stop, full-width forms.

    Quadratic in the length for hostile text: bound it first.
    """
    text = text.translate(_ASCII).strip()
    while True:
        bare = text.removesuffix(".").removeprefix(r"\displaystyle").strip()
        for left, right in _DELIMITERS:
            if len(bare) > len(left) + len(right) and bare.startswith(left) and bare.endswith(right):
                bare = bare[len(left) : -len(right)].strip()
        if bare == text:
            return text
        text = bare


def parse_integer(text: str) -> int | None:
    """`-1,234` or `7.0`; no fractions, no arithmetic."""
    literal = _literal(text)
    return int(literal.partition(".")[0]) if literal and _INTEGER.fullmatch(literal) else None


def parse_number(text: str) -> Fraction | None:
    """Integers, decimals, a/b, \\frac{a}{b}, mixed numbers (2\\frac12), a final percent sign; exactly."""
    literal = _literal(text)
    if not literal:
        return None
    without_percent = re.sub(r"\s*\\?%$", "", literal)
    value = _plain_number(without_percent)
    return value if value is None or without_percent == literal else value / 100


def parse_choice(text: str) -> str | None:
    """The letter A-J of `B`, `(b)`, `B.`, `B) because`, \\text{B}."""
    text = text[:MAX_LITERAL_CHARS]
    match = _CHOICE.fullmatch(clean(_TEXT_COMMAND.sub(r"\1", clean(text))))
    return match.group(1).upper() if match else None


def normal_text(text: str) -> str | None:
    """Case folded, compatibility forms unified, white space collapsed; None for nothing."""
    text = unicodedata.normalize("NFKC", _TEXT_COMMAND.sub(r"\1", clean(text)))
    return " ".join(text.casefold().split()) or None


def without_separators(text: str) -> str:
    """The text with the first number's thousands separators removed if its groups are even."""
    grouped = _GROUPED.match(text)
    return re.sub(_SEPARATOR, "", grouped[1]) + text[grouped.end() :] if grouped else text


def _literal(text: str) -> str | None:
    if len(text) > MAX_LITERAL_CHARS:
        return None
    return without_separators(clean(text).removeprefix("\\$").removeprefix("$"))


def _plain_number(literal: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(literal)
    if match and (match[2] or match[3]):
        sign, whole, decimals = match[1], match[2] or "0", match[3] or ""
        return Fraction(int(f"{sign}{whole}{decimals}"), 10 ** len(decimals))
    if match := _SLASHED.fullmatch(literal):
        return _fraction(match[1], "0", match[2], match[3])
    if match := _FRAC.fullmatch(literal):
        return _fraction(match[1], match[2] or "0", match[3] or match[4], match[5] or match[6])
    return None


def _fraction(sign: str, whole: str, numerator: str, denominator: str) -> Fraction | None:
    if int(denominator) == 0:
        return None
    value = int(whole) + Fraction(int(numerator), int(denominator))
    return -value if sign == "-" else value
