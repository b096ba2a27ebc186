"""Parsers of literals for exact comparison: numbers as fractions, choices as letters, normalised text.

No floats and no eval. Only ASCII and full-width digits (used in Chinese text) are digits; superscript or
Arabic-Indic ones are not, although Python's int() reads the latter. Numbers are read by rewards/math/literals
(0,125 is one eighth; 1,250 is not). Every parser returns None for text that it can't read, and first finds
the answer in a solution by answers/answer.py (`#### 42`).
"""

import re
import unicodedata
from fractions import Fraction

from megatron_r1.rewards.answers.answer import bare_answer
from megatron_r1.rewards.math.literals import TooLarge, read_literal
from megatron_r1.rewards.math.spelling import spelled

MAX_LITERAL_CHARS = 1000

# full-width ASCII (digits, signs, brackets, letters) to ASCII, with the signs that stand for - , .
_ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    ord("\u2212"): "-",
    ord("\u2013"): "-",
    ord("\u3002"): ".",
    ord("\u00a0"): " ",
}
_DELIMITERS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("\u201c", "\u201d"),
)
_FRAC = re.compile(
    r"([+-]?)\s*([0-9]*)\s*\\frac\s*(?:\{\s*(-?[0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))"
)
_SIGN = re.compile(r"\s*([+-]?)\s*(?:\\?\$\s*)?")
_SLASHED = re.compile(r"\s*/\s*([0-9]+)")
_NOT_INTEGER = re.compile(r"[/eE(]|\\(?:frac|overline|dot)")
_PERCENT = re.compile(r"\s*\\?%$")
_CHOICE = re.compile(
    r"(?:option |choice )?[(\[]?\s*([A-J])\s*[)\]]?\s*"
    r"(?:(?:[.:)\uff0c]|\s-\s|(?<=\))|,(?=\s+[a-z]{2}))(?:\s*.*)?)?",
    re.DOTALL | re.IGNORECASE,
)
_CHOICES = re.compile(r"\(?[A-J]\)?(?:(?:\s*(?:,|;|\u3001|&|and|\u548c)\s*)+\(?[A-J]\)?)+|[A-J]{2,10}")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm|operatorname|bf|rm)\s*\{([^{}]*)\}")


def clean(text: str) -> str:
    """The text without mathematics delimiters, quotes, bold, a final full stop and full-width forms.

    Quadratic in the length for hostile text, so callers bound the length first.
    """
    text = text.translate(_ASCII).strip()
    while True:
        bare = text if text.endswith("..") else text.removesuffix(".")
        bare = bare.removeprefix(r"\displaystyle").strip()
        for left, right in _DELIMITERS:
            if len(bare) > len(left) + len(right) and bare.startswith(left) and bare.endswith(right):
                if left in bare[len(left) : -len(right)]:
                    continue  # two formulas
                bare = bare[len(left) : -len(right)].strip()
        if bare == text:
            return text
        text = bare


def parse_integer(text: str) -> int | None:
    """The value of `-1,234` or `7.0`; not of fractions or arithmetic."""
    literal = _literal(text)
    value = None if _NOT_INTEGER.search(literal) else _number(literal)
    return int(value) if value is not None and value.denominator == 1 else None


def parse_number(text: str) -> Fraction | None:
    """The exact value of integers, decimals, a/b, \\frac{a}{b}, 2\\frac12, also with a percent sign."""
    literal = _literal(text)
    without_percent = _PERCENT.sub("", literal)
    value = _number(without_percent)
    return value if value is None or without_percent == literal else value / 100


def parse_choice(text: str) -> str | None:
    """The letter A-J of `B`, `(b)`, `B.`, `B) because`, \\text{B}; several in order of `A, C` or `AC`."""
    text = clean(_TEXT_COMMAND.sub(r"\1", clean(bare_answer(text)[:MAX_LITERAL_CHARS]))).replace("\\ ", " ")
    if _CHOICES.fullmatch(text):
        letters = re.findall("[A-J]", text)
        return "".join(letters) if letters == sorted(set(letters)) else None
    match = _CHOICE.fullmatch(text)
    return match.group(1).upper() if match else None


def normal_text(text: str) -> str | None:
    """The text case-folded, in Unicode's NFKC form, with white space collapsed; None if it is empty."""
    text = unicodedata.normalize("NFKC", _TEXT_COMMAND.sub(r"\1", clean(bare_answer(text))))
    return " ".join(text.casefold().split()) or None


def _literal(text: str) -> str:
    """The cleaned text; "" if it is too long for a number."""
    text = bare_answer(text)
    return spelled(clean(text)) if len(text) <= MAX_LITERAL_CHARS else ""


def _number(literal: str) -> Fraction | None:
    if match := _FRAC.fullmatch(literal):
        return _fraction(match[1], match[2] or "0", match[3] or match[4], match[5] or match[6])
    match = _SIGN.match(literal)
    assert match is not None
    try:
        number = read_literal(literal, match.end(), commas=True)
    except TooLarge:
        return None
    if number is None:
        return None
    value = -number.value if match[1] == "-" else number.value
    if number.end == len(literal):
        return value
    slashed = _SLASHED.fullmatch(literal, number.end)
    if slashed is None or value.denominator != 1 or int(slashed[1]) == 0:
        return None
    return value / int(slashed[1])


def _fraction(sign: str, whole: str, numerator: str, denominator: str) -> Fraction | None:
    if int(denominator) == 0:
        return None
    value = int(whole) + Fraction(int(numerator), int(denominator))
    return -value if sign == "-" else value
