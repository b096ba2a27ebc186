import math
import time
from fractions import Fraction

import pytest

from megatron_r1.rewards.math.expression import fraction_of
from megatron_r1.rewards.math.literals import TooLarge
from megatron_r1.rewards.math.statement import read_statement


def value(text):
    return fraction_of(read_statement(text).readings[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234.5", Fraction(2469, 2)),
        ("2(3+4)", Fraction(14)),
        ("-3^2", Fraction(-9)),
        ("2^{3^2}", Fraction(512)),
        ("2^3^2", Fraction(512)),
        ("2^-3", Fraction(1, 8)),
        ("4^{1/2}", Fraction(2)),
        (r"\sqrt[3]{-8}", Fraction(-2)),
        (r"2\frac12", Fraction(5, 2)),
        (r"-2\frac12", Fraction(-5, 2)),
        ("-2 1/2", Fraction(-5, 2)),
        (r"\frac{1}{2} \cdot \frac{2}{3}", Fraction(1, 3)),
        (r"3 \times 10^{8}", Fraction(3 * 10**8)),
        ("3 x 10^8", Fraction(3 * 10**8)),
        ("7 - 8 - 2", Fraction(-3)),
        ("8 / 4 / 2", Fraction(1)),
        (r"50\%", Fraction(1, 2)),
        ("5!", Fraction(120)),
        ("7!!", Fraction(105)),
        ("(3!)!", Fraction(720)),
        ("1/2004!", Fraction(1, math.factorial(2004))),
        ("1/2^{99}", Fraction(1, 2**99)),
        ("--3", Fraction(3)),
        ("i^2", Fraction(-1)),
        (r"\binom52", Fraction(10)),
        (r"{5 \choose 2}", Fraction(10)),
        (r"\log_2 8", Fraction(3)),
        (r"\lg 1000", Fraction(3)),
        (r"\lfloor 7/2 \rfloor", Fraction(3)),
        (r"\gcd(12, 18)", Fraction(6)),
        (r"\left|-3\right|", Fraction(3)),
        ("1e3", Fraction(1000)),
        ("2 million", Fraction(2_000_000)),
        ("三分之二", Fraction(2, 3)),
        ("百分之五", Fraction(1, 20)),
    ],
)
def test_rational_constants_are_exact(text, expected):
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", r"\sqrt{2}", "1 2", "(1", "1)", "1/0", "0^{-1}", "2^{1/2}", "(1,2)", "(1,234)", "5..2", "*3",
     r"\frac1", "(-1)!", "\u0663", r"\log 3", "12:30", "101_2"],
)  # fmt: skip
def test_what_is_no_rational_constant_is_none(text):
    assert value(text) is None


ENORMOUS = [
    "9^9^9^9", "9^{9^{9^9}}", "1000000!", "(" * 200 + "1" + ")" * 200, "((9^999)^999)^999", "9" * 1500,
    "9**9**9**9", "((3000!)!)!", "2^{" * 200 + "2" + "}" * 200, "x + 9^9^9^9", r"\sqrt{9^{9^{9}}}",
    "[" * 200 + "x" + "]" * 200, "x + 1e99999", "x" + "1" * 1500, "x^{99999}", r"\binom{99999}{5000}",
    "0." + "3" * 1500 + "...", "(9^9999)(9^9999)(9^9999)",
]  # fmt: skip


@pytest.mark.parametrize("text", ENORMOUS)
def test_what_would_be_enormous_is_refused_at_once(text):
    start = time.process_time()
    with pytest.raises(TooLarge):
        read_statement(text)
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("text", ["x^{2024}", "2^{2^{10}}", "e^{e^x}", "1^{9^9}", "100!", r"\{1, 2\}"])
def test_ordinary_powers_are_not_refused(text):
    assert read_statement(text).readings
