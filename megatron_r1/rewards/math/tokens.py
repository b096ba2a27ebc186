"""Tokenizer of spelled text: skips only spaces; unknown characters become tokens of kind `unknown`.

Kinds: number, based (`101_2`), letter, run (adjacent letters), command (`\\frac`), text (`\\text{...}`),
sign, unknown. A token has its position in the text, and whether a space precedes it: `5 m` is a quantity, `3
1/2` a mixed number.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from megatron_r1.rewards.math.expression import INFINITY, PI
from megatron_r1.rewards.math.functions import function_name
from megatron_r1.rewards.math.literals import TooLarge, read_literal
from megatron_r1.rewards.math.spelling import FONTS, GREEK, plain

MAX_DEPTH = 30
MAX_BASED_DIGITS = 300
OPENING = ("(", "[", "{|", "lfloor", "lceil")
CLOSING = (")", "]", "|}", "rfloor", "rceil")

LETTERS = frozenset(GREEK.values()) - {"pi", "Pi"} | {
    "varepsilon", "vartheta", "varrho", "varphi", "Upsilon", "ell", "hbar",
}  # fmt: skip
WORDS_OF_MATHEMATICS = {"pi": PI, "infinity": INFINITY, "inf": INFINITY, "infty": INFINITY, "oo": INFINITY}
_SIGNS = {
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "leqslant": "<=",
    "lt": "<", "ge": ">=", "geq": ">=", "geqslant": ">=", "gt": ">", "ne": "!=", "neq": "!=",
    "approx": "~", "simeq": "~", "doteq": "~", "in": "in", "notin": "notin", "cup": "cup", "cap": "cap",
    "setminus": "minus", "smallsetminus": "minus", "backslash": "minus", "bigcup": "cup", "pm": "pm",
    "mp": "mp", "{": "{|", "}": "|}", "%": "%", "vert": "|", "lvert": "|", "rvert": "|", "mid": "|",
    "colon": ":", "lor": "or", "vee": "or", "land": "and", "wedge": "and", "ldots": "...", "dots": "...",
    "cdots": "...", "dotsc": "...", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "$": "$",
    "\\": "newline", "infty": "inf", "infin": "inf", "lfloor": "lfloor", "rfloor": "rfloor",
    "lceil": "lceil", "rceil": "rceil", "emptyset": "emptyset", "varnothing": "emptyset", "langle": "(",
    "rangle": ")", "lgroup": "(", "rgroup": ")", "to": "to", "imath": "i", "pi": "pi",
}  # fmt: skip
SETS = {"R": "reals", "Z": "integers", "N": "naturals", "Q": "rationals", "C": "complexes"}
ACCENTS = frozenset((
    "vec", "overrightarrow", "overleftarrow", "overline", "bar", "hat", "widehat", "tilde", "widetilde",
    "angle", "measuredangle", "triangle", "dot", "arc", "overset", "underline", "mathring", "overparen",
    "wideparen", "odot",
))  # fmt: skip
STRUCTURES = frozenset(("frac", "sqrt", "binom", "choose", "begin", "end", "overline", "mathbb"))
_BRACKETS = re.compile(r"[()\[\]{}]")
_WORD = re.compile(r"[A-Za-z]+")
_OTHER_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"[0-9]|\.(?:[0-9]|\\(?:overline|bar|dot)\b)")
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_FONT = re.compile(rf"\\(?:{FONTS})(?![A-Za-z])\s*")
_DIGITS = r"[0-9][0-9A-F]*|[A-F]{2,}"
_BASED = re.compile(rf"(?:(?P<digits>{_DIGITS})|\((?P<grouped>{_DIGITS})\))\s*_\s*")
_BASE = re.compile(r"\(?(?:base ?)?([0-9]{1,2}|[a-z]+)\)?")
_IN_WORDS = re.compile(r"(?P<digits>[0-9][0-9A-F]*)\s*\(?\s*(?:in\s+)?base[\s-]+(?P<in>[0-9]{1,2}|[a-z]+)\)?")
_BASES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_LONG_SIGN = re.compile(r"<=|>=|!=|=<|=>|==|\.\.\.|!!|\^|[-+*/^_(){}\[\]|,;:=<>!%'&$°.~]")


@dataclass(frozen=True, slots=True)
class Token:
    """value: a number's; text: any other token's name, or the digits and base of a `based` one."""

    kind: str
    text: str
    start: int
    end: int
    spaced: bool = False
    value: Fraction | None = None


def tokens_of(text: str, *, commas: bool) -> list[Token]:
    """The tokens of a spelled text. commas: whether a comma may be part of a number (see literals).

    Raises TooLarge if brackets are nested too deep for the parser.
    """
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket in "([{" else -1
        if depth > MAX_DEPTH:
            raise TooLarge(f"more than {MAX_DEPTH} nested brackets")
    return list(_tokens(text, commas=commas))


def _tokens(text: str, *, commas: bool) -> Iterator[Token]:
    position, depth, spaced_commas = 0, 0, re.search(r",\s", text) is not None
    while position < len(text):
        begin = position
        while begin < len(text) and text[begin].isspace():
            begin += 1
        if begin == len(text):
            return
        token = _token(text, begin, spaced=begin > position, commas=commas and (not depth or spaced_commas))
        depth += (token.text in OPENING) - (token.text in CLOSING)
        yield token
        position = token.end


def _token(text: str, start: int, *, spaced: bool, commas: bool) -> Token:
    if (based := _based(text, start, spaced)) is not None:
        return based
    first = text[start]
    if _NUMBER.match(text, start):
        literal = read_literal(text, start, commas=commas)
        if literal is not None:
            return Token("number", text[start : literal.end], start, literal.end, spaced, literal.value)
    if first == "\\":
        return _command(text, start, spaced)
    if match := _WORD.match(text, start) or _OTHER_WORD.match(text, start):
        kind = "letter" if len(match[0]) == 1 and match[0].isascii() else "run"
        return Token(kind, match[0], start, match.end(), spaced)
    if match := _LONG_SIGN.match(text, start):
        sign = {"=<": "<=", "=>": "unknown", "==": "="}.get(match[0], match[0])
        return Token("unknown" if sign == "unknown" else "sign", sign, start, match.end(), spaced)
    return Token("unknown", first, start, start + 1, spaced)


def _based(text: str, start: int, spaced: bool) -> Token | None:
    """Digits with their base (`101_2`, `101 base 2`), if they are digits of that base."""
    if match := _BASED.match(text, start):
        subscript = argument(text, match.end())
        name = _BASE.fullmatch(plain(subscript[0])) if subscript else None
        if name is None or subscript is None:
            return None
        return _number_in_base(match["digits"] or match["grouped"], name[1], start, subscript[1], spaced)
    if match := _IN_WORDS.match(text, start):
        return _number_in_base(match["digits"], match["in"], start, match.end(), spaced)
    return None


def _number_in_base(digits: str, base_name: str, start: int, end: int, spaced: bool) -> Token | None:
    if not base_name.isdigit() and base_name not in _BASES:
        return None
    base = int(base_name) if base_name.isdigit() else _BASES.index(base_name)
    if not 2 <= base <= 36 or len(digits) > MAX_BASED_DIGITS or any(int(d, 36) >= base for d in digits):
        return None
    return Token("based", f"{digits.lstrip('0') or '0'}_{base}", start, end, spaced)


def _command(text: str, start: int, spaced: bool) -> Token:
    if match := _FONT.match(text, start):
        inside = argument(text, match.end())
        if inside is not None:
            content, end = inside
            return Token("text", content.strip(), start, end, spaced)
    match = _COMMAND.match(text, start)
    if match is None:
        return Token("unknown", "\\", start, start + 1, spaced)
    name = match[1]
    if name == "mathbb" and (inside := argument(text, match.end())):
        known = inside[0].strip() in SETS
        return Token("set" if known else "unknown", inside[0].strip(), start, inside[1], spaced)
    kind = "unknown"
    if name in _SIGNS:
        kind, name = "sign", _SIGNS[name]
    elif name in LETTERS:
        kind = "letter"
    elif (function := function_name(name)) is not None:
        kind, name = "command", function
    elif name in ACCENTS or name in STRUCTURES:
        kind = "command"
    return Token(kind, name, start, match.end(), spaced)


def argument(text: str, start: int) -> tuple[str, int] | None:
    """(content, end) of the braces at start; without braces, of the next letters or digits."""
    if text[start : start + 1] != "{":
        match = re.compile(r"[A-Za-z0-9]+").match(text, start)
        return (match[0], match.end()) if match else None
    depth = 0
    for position in range(start, len(text)):
        if text[position] == "\\":
            continue
        if text[position] in "{}" and text[position - 1] != "\\":
            depth += 1 if text[position] == "{" else -1
            if not depth:
                return text[start + 1 : position], position + 1
    return None


def is_name(content: str) -> bool:
    """Whether a text command contains capitals, such as \\mathrm{AB}, the name of a segment."""
    return len(content) > 1 and content.isascii() and content.isalpha() and content.isupper()


def is_mathematical(content: str) -> bool:
    """Whether a text command contains mathematics: letters, numbers and commands, but no word."""
    words = _OTHER_WORD.findall(_COMMAND.sub(" ", content))
    if not any(character.isalnum() for character in content):
        return False
    if not all((len(word) == 1 and word.isascii()) or function_name(word) for word in words):
        return False
    return (
        len(content) == 1
        or "\\" in content
        or any(c.isdigit() for c in content)
        or function_name(content) is not None
    )
