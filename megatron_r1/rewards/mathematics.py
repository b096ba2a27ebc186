"""Whether a mathematical answer equals its reference: exactly where possible, by math-verify otherwise.

Both sides are rational constants, with or without a unit -> compared as fractions, here. Anything else goes
to math-verify in the grading pool, after a look for what would hang it. What our rules change or keep of
math-verify 0.9.0's verdicts (reference against answer; tests/rewards/test_mathematics.py holds the table):

    5 cm            5 m              it says right; wrong here: another unit (100 cm is 1 m: right)
    1/2^99          1/2^98           it says right (rounds to six decimals); wrong here
    1/2004!         1/2006!          likewise
    50              50\\%             it says right; wrong here: a percentage is a hundredth
    0.333333        1/3              it says right; wrong here: decimals are exact
    [0, inf)        x >= 0           it says wrong; right here
    9^9^9^9, 1000000!, 200 brackets  it takes seconds; refused here at once, so wrong
    pi              3.14159          wrong for both: an approximation is not the number

Not mended, and held by the same test: (1,2) is an open interval or a point, so it equals 1,2; of an equation
the last side counts, so `x = 5` equals 5, and `6 = 5` does too; a variable's letter counts, so f(x) is not
f(y).
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from megatron_r1.rewards import arithmetic
from megatron_r1.rewards.answer import unboxed
from megatron_r1.rewards.numerals import clean
from megatron_r1.rewards.pooled import Item
from megatron_r1.rewards.units import Unit, split_unit
from megatron_r1.types import Score

MAX_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with its unit; refused: why it must not be evaluated, "" if it may."""

    text: str
    unit: Unit | None = None
    value: Fraction | None = None  # None: not a rational constant
    refused: str = ""


@lru_cache(maxsize=65_536)
def read_quantity(text: str) -> Quantity:
    if len(text) > MAX_CHARS:
        return Quantity("", refused=f"more than {MAX_CHARS} characters")
    text = clean(unboxed(text))
    if reason := "empty" if not text else arithmetic.refusal(text):
        return Quantity(text, refused=reason)
    value_text, unit = split_unit(text)
    try:
        return Quantity(value_text, unit, arithmetic.rational(value_text))
    except arithmetic.TooLarge as error:
        return Quantity(value_text, refused=str(error))


def grade_mathematics(reference: str, answer: str | None) -> Score | Item:
    """The score, or what the pool must decide."""
    gold = read_quantity(reference)
    if gold.refused:
        return Score(None, f"reference can't be read: {gold.refused}")
    verdict = _verdict(gold, answer)
    if gold.value is not None:  # read exactly: needs no trial
        return verdict if isinstance(verdict, Score) else Item(check=None, answer=verdict)
    return Item(check=("math", (_bare(gold), _bare(gold))), answer=verdict)


def _verdict(gold: Quantity, answer: str | None) -> Score | tuple[str, tuple[str, str]]:
    if answer is None:
        return Score(0.0, "no answer")
    given = read_quantity(answer)
    if given.refused:
        return Score(0.0, f"answer refused: {given.refused}")
    equal = equal_exactly(gold, given)
    return ("math", (_bare(gold), _bare(given))) if equal is None else Score(float(equal))


def equal_exactly(gold: Quantity, given: Quantity) -> bool | None:
    """Equality as far as exact rules decide it; None if it takes symbolic algebra."""
    scale = Fraction(1)
    if gold.unit and given.unit:
        if gold.unit.dimension != given.unit.dimension:
            return False
        scale = given.unit.factor / gold.unit.factor
    if gold.value is not None and given.value is not None:
        return gold.value == given.value * scale
    if scale != 1:
        return False
    return True if gold.text == given.text else None


def _bare(quantity: Quantity) -> str:
    return quantity.text.replace("$", "")
