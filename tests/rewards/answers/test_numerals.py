from fractions import Fraction

import pytest

from megatron_r1.rewards.answers.numerals import normal_text, parse_choice, parse_integer, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 13 ", 13),
        ("-4", -4),
        ("+4", 4),
        ("\u22124", -4),
        ("1,234,567", 1234567),
        ("1{,}234", 1234),
        (r"1\,234", 1234),
        (r"1,\!234", 1234),
        ("007", 7),
        ("7.0", 7),
        ("$42$", 42),
        (r"\(42\).", 42),
        ("**42**", 42),
        ("\uff14\uff12", 42),  # full-width digits
        ("9" * 500, int("9" * 500)),
        ("12,34,567", 1234567),
        ("10 080", 10080),
        ("1.234.567", 1234567),
        ("$72", 72),
        (r"\$1,080.00", 1080),
        ("6 * 12 = 72 eggs\n#### 72", 72),
        ("The answer is 72.", 72),
        (r"\boxed{72}", 72),
    ],
)
def test_integers_are_read_in_every_usual_dress(text, value):
    assert parse_integer(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7.5",
        "14/2",
        "3+4",
        "1,23",
        "0,125",
        "2 1/2",
        "12345,678",
        "7 8",
        "5\u00b2",
        "\u0663",
        "VII",
        "1e3",
        "9" * 5000,
        "nan",
    ],
)
def test_what_is_no_integer_is_none(text):
    assert parse_integer(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.125", Fraction(1, 8)),
        (".5", Fraction(1, 2)),
        ("-1,000.5", Fraction(-2001, 2)),
        ("3/4", Fraction(3, 4)),
        ("- 3 / 4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"\dfrac34", Fraction(3, 4)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        (r"50\%", Fraction(1, 2)),
        ("0.1", Fraction(1, 10)),
        (r"\$3.50", Fraction(7, 2)),
        ("0,125", Fraction(1, 8)),
        ("0{,}5", Fraction(1, 2)),
        ("1.000,5", Fraction(2001, 2)),
        ("1e6", Fraction(10**6)),
        ("1.5e-3", Fraction(3, 2000)),
        ("2 1/2", Fraction(5, 2)),
        ("½", Fraction(1, 2)),
        (r"0.\overline{3}", Fraction(1, 3)),
        ("0.1(6)", Fraction(1, 6)),
        ("0.333...", Fraction(1, 3)),
    ],
)
def test_numbers_are_exact_fractions(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text", ["", ".", "%", "1/0", "inf", "1.2.3", "2+3", "__import__('os')", "0x10", "1_000"]
)
def test_what_is_no_number_is_none(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "(B)",
        "B.",
        "B)",
        r"\text{B}",
        r"\text{(B)}",
        "B. Paris",
        "$B$",
        "\uff08B\uff09",
        "B\u3002",
        "B: mitosis",
        "B - 12",
        "(B) 12",
        r"\textbf{(B)}\ 12",
        "The answer is B",
        "Answer: B",
        r"\boxed{B}",
    ],
)
def test_choices_are_letters(text):
    assert parse_choice(text) == "B"


@pytest.mark.parametrize("text", ["", "K", "BA", "A cat", "CAB", "CABBAGE", "A, A", "1"])
def test_what_is_no_choice_is_none(text):
    assert parse_choice(text) is None


@pytest.mark.parametrize("text", ["A,C", "AC", "A and C", "(A), (C)", "A\u3001C"])
def test_several_choices_are_letters_in_order(text):
    assert parse_choice(text) == "AC"


def test_text_is_compared_in_a_normal_form():
    assert normal_text(" The  Cat.\n") == normal_text("the cat") == "the cat"
    assert normal_text(r"\text{Paris}") == "paris"
    assert normal_text("\uff21\uff22") == "ab"
    assert normal_text("  ") is None
