from fractions import Fraction

import pytest

from megatron_r1.rewards.math.spelling import spelled
from megatron_r1.rewards.math.units import NOTHING, Unit, read_unit

LENGTH, SPEED, FORCE = (("m", 1),), (("m", 1), ("s", -1)), (("kg", 1), ("m", 1), ("s", -2))


@pytest.mark.parametrize(
    ("text", "dimension", "factor"),
    [
        ("cm", LENGTH, Fraction(1, 100)),
        (r"\text{ cm}", LENGTH, Fraction(1, 100)),
        (r"\mathrm{~cm}", LENGTH, Fraction(1, 100)),
        ("metres", LENGTH, Fraction(1)),
        ("Kilometers", LENGTH, Fraction(1000)),
        ("inches", LENGTH, Fraction(127, 5000)),
        ("厘米", LENGTH, Fraction(1, 100)),
        (r"\mu\text{m}", LENGTH, Fraction(1, 10**6)),
        ("μm", LENGTH, Fraction(1, 10**6)),
        ("cm²", (("m", 2),), Fraction(1, 10**4)),
        (r"\mathrm{~cm}^{2}", (("m", 2),), Fraction(1, 10**4)),
        (r"\mathrm{cm^2}", (("m", 2),), Fraction(1, 10**4)),
        ("square centimeters", (("m", 2),), Fraction(1, 10**4)),
        ("平方厘米", (("m", 2),), Fraction(1, 10**4)),
        ("mL", (("m", 3),), Fraction(1, 10**6)),
        ("m/s", SPEED, Fraction(1)),
        (r"\mathrm{~km} / \mathrm{h}", SPEED, Fraction(5, 18)),
        ("kilometers per hour", SPEED, Fraction(5, 18)),
        (r"\mathrm{~m} \cdot \mathrm{s}^{-1}", SPEED, Fraction(1)),
        ("千米/时", SPEED, Fraction(5, 18)),
        ("N", FORCE, Fraction(1)),
        ("kg·m/s²", FORCE, Fraction(1)),
        ("J/(kg·K)", (("kelvin", -1), ("m", 2), ("s", -2)), Fraction(1)),
        ("MW", (("kg", 1), ("m", 2), ("s", -3)), Fraction(10**6)),
        ("mW", (("kg", 1), ("m", 2), ("s", -3)), Fraction(1, 1000)),
        (r"k\Omega", (("A", -2), ("kg", 1), ("m", 2), ("s", -3)), Fraction(1000)),
        (r"^\circ", (("degree", 1),), Fraction(1)),
        (r"^\circ\mathrm{C}", (("celsius", 1),), Fraction(1)),
        ("°F", (("fahrenheit", 1),), Fraction(1)),
        ("cents", (("dollar", 1),), Fraction(1, 100)),
        ("€", (("euro", 1),), Fraction(1)),
    ],
)
def test_known_units_have_a_dimension_and_an_exact_factor(text, dimension, factor):
    unit = read_unit(spelled(text))
    assert unit is not None
    assert (unit.dimension, unit.factor) == (dimension, factor)


@pytest.mark.parametrize("text", ["units", "square units", "th", r"\text{rd}", ""])
def test_what_says_nothing_is_no_unit(text):
    assert read_unit(spelled(text)) == NOTHING


def test_other_words_are_units_by_their_text():
    assert read_unit("apples") == read_unit(r"\text{ Apple}") == Unit("apple")
    assert read_unit("people") == Unit("people")


@pytest.mark.parametrize("text", ["+ 3", "12", "what a sentence that goes on and on would be"])
def test_what_can_be_no_unit_is_none(text):
    assert read_unit(text) is None
