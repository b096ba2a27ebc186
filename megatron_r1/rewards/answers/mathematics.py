"""Grading of mathematical answers: equality with the reference by exact rules, or by algebra in a process.

Both sides are parsed completely (rewards/math): a number, a quantity with its unit, a list, a relation, a
set, a time; text that is not mathematics equals only the same text. Exact rules are decided here; formulas,
equations and sets go to sympy in the grading pool. Cases that may surprise, all tested by
tests/rewards/answers/test_mathematics.py (answer against reference):

    50 against 50%            wrong: 50% is 1/2, whatever the question asked for
    0.333333 against 1/3      wrong: decimals are exact, so an approximation is another number
    3,14 against 3.14         right: the comma may be a decimal one if the reference is not a whole number,
                              and one, two or more than three digits follow it; otherwise it is a list
    5 against 5 cm            right: the question may have asked for a number of centimetres; 5 m is wrong
    (1,2) against 1,2         right: a point or an open interval, whose brackets are often left out
    x = 5 against 5           right; 6 = 5 against 5 is wrong, and so is x = 5 against y = 5
    1010_2 against 10         wrong; against 1010 right: the base may be left out, as a unit may
    12:30 against 2/5         wrong: it is a time of day; 3:4 against 6:8 is right
    BAC against ABC           wrong: letters that form a word or a name are not a product
    answer: 42                is 42, as are `the answer is 42` and `#### 42`; any other sentence is text, and
                              ungradable as a reference

The reference is checked first: one that is refused or can't be evaluated makes the completion ungradable.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from megatron_r1.rewards.answers.answer import bare_answer
from megatron_r1.rewards.answers.numerals import clean, parse_choice
from megatron_r1.rewards.grading.pooled import Item
from megatron_r1.rewards.math.equality import Equality, NeedsAlgebra, no_algebra
from megatron_r1.rewards.math.expression import Node, number
from megatron_r1.rewards.math.literals import TooLarge
from megatron_r1.rewards.math.spelling import normal
from megatron_r1.rewards.math.statement import read_statement
from megatron_r1.types import Score

MAX_CHARS = 2_000
MAX_WORDS = 8  # a longer text is a sentence
_SAYS_SO = re.compile(
    r"\b(?:therefore|hence|thus|because|since|so|we|answer|solution is|"
    r"(?:is|are|equals?) (?:equal to )?-?\$?\d)\b|[.!?] \w",
    re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")
_PLAIN_FRACTION = re.compile(
    r"(-?[0-9]{1,18})/([1-9][0-9]{0,17})|\\[dt]?frac\{(-?[0-9]{1,18})\}\{([1-9][0-9]{0,17})\}"
)
_COMMAS = re.compile(r"(?:[^,()\[\]{}]|(?<![0-9.,])[0-9]+,(?:[0-9]{1,2}|[0-9]{4,})(?![0-9.,]))+")
_DECIMAL_COMMA = re.compile(r"(?<=[0-9]),(?=[0-9])")
_CHOICE = re.compile(r"[A-J]")
_EXACT = Equality(no_algebra)


@dataclass(frozen=True, slots=True)
class Reading:
    """A text's possible readings, the most likely first. refused: why it is not evaluated, "" if it is."""

    readings: tuple[Node, ...] = ()
    spelled: str = ""
    refused: str = ""

    @property
    def text(self) -> str:
        """The normal form for comparing it as text."""
        return normal(self.spelled)

    @property
    def is_text(self) -> bool:
        return self.readings[0].op == "text"

    @property
    def is_exact(self) -> bool:
        """Whether no reading needs algebra."""
        return all(_EXACT_OPS.issuperset(node.op for node in reading.walk()) for reading in self.readings)


_EXACT_OPS = frozenset(("number", "text", "quantity", "list", "set", "bracket", "ratio", "time", "based"))


@lru_cache(maxsize=65_536)
def read(text: str) -> Reading:
    """The reading of a reference or an answer, without boxes, `####` and lead-ins."""
    if _PLAIN_NUMBER.fullmatch(text):  # by far the most frequent answers
        return Reading((number(Fraction(text)),), text)
    if (fraction := _PLAIN_FRACTION.fullmatch(text)) is not None:
        return Reading(
            (number(Fraction(f"{fraction[1] or fraction[3]}/{fraction[2] or fraction[4]}")),), text
        )
    text = bare_answer(text)
    if len(text) > MAX_CHARS:
        return Reading(refused=f"more than {MAX_CHARS} characters")
    text = clean(text)
    if not text:
        return Reading(refused="empty")
    try:
        statement = read_statement(text)
    except TooLarge as error:
        return Reading(refused=str(error))
    return Reading(statement.readings, statement.text)


def grade_mathematics(reference: str, answer: str | None) -> Score | Item:
    """The score, or an item for the grading pool."""
    gold = read(reference)
    if gold.refused or (fault := _fault_of_text(gold)):
        return Score(None, f"reference can't be read: {gold.refused or fault}")
    verdict = _verdict(gold, answer)
    check = None if gold.is_exact else ("math_reference", (gold.readings,))
    return verdict if check is None and isinstance(verdict, Score) else Item(check=check, answer=verdict)


def _fault_of_text(gold: Reading) -> str:
    """Why a reference that is text can't be compared with answers; "" if it can."""
    texts = [str(node.value) for node in gold.readings[0].walk() if node.op == "text"]
    if texts and not any(character.isalnum() for character in gold.text):
        return "it is neither mathematics nor text"
    if texts and (_SAYS_SO.search(gold.text) or any(len(text.split()) > MAX_WORDS for text in texts)):
        return "it is a sentence"
    return ""


def _verdict(
    gold: Reading, answer: str | None
) -> Score | tuple[str, tuple[tuple[Node, ...], tuple[Node, ...]]]:
    if answer is None:
        return Score(0.0, "no answer")
    given = read(answer)
    if given.refused:
        return Score(0.0, f"answer refused: {given.refused}")
    given = _with_decimal_commas(gold, answer, given)
    equal = equal_exactly(gold, given)
    if equal is None:
        return "math", (gold.readings, given.readings)
    if not equal and _CHOICE.fullmatch(gold.text):  # a choice's letter followed by its text
        equal = parse_choice(answer) == gold.text and gold.text in answer
    return Score(float(equal))


def _with_decimal_commas(gold: Reading, answer: str, given: Reading) -> Reading:
    """The reading, also with 3,14 as 3.14 if the reference contains a number that is not whole."""
    numbers = (node.value for node in gold.readings[0].walk() if node.op == "number")
    if "," not in answer or all(isinstance(n, Fraction) and n.denominator == 1 for n in numbers):
        return given
    text = clean(bare_answer(answer))
    if not _COMMAS.fullmatch(text):
        return given
    other = read(_DECIMAL_COMMA.sub(".", text))
    return given if other.refused else Reading((*given.readings, *other.readings), given.spelled)


def equal_exactly(gold: Reading, given: Reading) -> bool | None:
    """Equality by exact rules; None if it takes algebra."""
    try:
        if _EXACT.any_of(gold.readings, given.readings):
            return True
        return (gold.is_text or given.is_text) and gold.text == given.text
    except NeedsAlgebra:
        return None
