from fractions import Fraction

import pytest

from megatron_r1.rewards.units import Unit, split_unit

CM, M = Unit("length", Fraction(1, 100)), Unit("length", Fraction(1))


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"5\text{ cm}", "5", CM),
        (r"5 \mathrm{cm}", "5", CM),
        ("5 cm", "5", CM),
        ("5cm.", "5", CM),
        (r"5\text{ meters}", "5", M),
        ("5 metres", "5", M),
        (r"5\sqrt{2}\text{ m}", r"5\sqrt{2}", M),
        ("5 m^2", "5", Unit("length^2", Fraction(1))),
        ("5 cm^{2}", "5", Unit("length^2", Fraction(1, 10000))),
        (r"90^\circ", "90", Unit("angle", Fraction(1))),
        (r"\$5", "5", Unit("money", Fraction(1))),
        ("5 apples", "5", Unit("apples", Fraction(1))),
        ("12 percent", "12%", None),
        ("5x", "5x", None),
        ("5 x", "5 x", None),
        ("x", "x", None),
        (r"\text{Paris}", r"\text{Paris}", None),
    ],
)
def test_units_are_told_from_variables(text, value, unit):
    assert split_unit(text) == (value, unit)
