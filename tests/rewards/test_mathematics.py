"""Verdicts on pairs of (reference, answer) as a mathematician would give them; the rest is named as kept."""

import pytest

from megatron_r1.rewards.accuracy import Accuracy
from megatron_r1.rewards.mathematics import equal_exactly, grade_mathematics, read_quantity
from megatron_r1.rewards.pooled import Item
from megatron_r1.types import Score
from tests.rewards.samples import answered

WITHOUT_POOL = [
    # math-verify 0.9.0 gives the other verdict on these
    (r"5\text{ cm}", r"5\text{ m}", 0.0),
    ("1/2^{99}", "1/2^{98}", 0.0),
    ("1/2004!", "1/2006!", 0.0),
    ("50", r"50\%", 0.0),
    ("0.333333", "1/3", 0.0),
    # seconds each for math-verify, then wrong
    ("5", "9^9^9^9", 0.0),
    ("5", "1000000!", 0.0),
    ("5", "(" * 200 + "5" + ")" * 200, 0.0),
    ("5", "x + 9^{9^9}", 0.0),
    ("5", "5" * 2001, 0.0),
    # exact
    ("1/2^{99}", r"\frac{1}{2^{99}}", 1.0),
    ("1/2^{99}", "2^{-99}", 1.0),
    ("0.5", r"50\%", 1.0),
    (r"50\%", r"\frac12", 1.0),
    (r"100\text{ cm}", "1 m", 1.0),
    (r"1\text{ m}^2", "10000 cm^2", 1.0),
    ("5 m", "5 m^2", 0.0),
    ("5 apples", "5 oranges", 0.0),
    ("5", r"5\text{ cm}", 1.0),  # the question asked for a number of centimetres
    ("1,234", "1234", 1.0),
    ("5", "2+3", 1.0),
    (r"\boxed{5}", "$5$", 1.0),
    (r"x \in [1,2]", r"x \in [1,2]", None),  # equal text, but the reference must be tried first
]


@pytest.mark.parametrize(("reference", "answer", "value"), WITHOUT_POOL)
def test_exact_rules_decide_without_a_process(reference, answer, value):
    outcome = grade_mathematics(reference, answer)
    assert (outcome.value if isinstance(outcome, Score) else None) == value


def test_references_that_cannot_be_read_are_ungradable_before_any_process():
    for reference in ("", "  ", "9^9^9^9", "x" * 3000):
        for answer in ("5", None, reference):
            outcome = grade_mathematics(reference, answer)
            assert isinstance(outcome, Score)
            assert outcome.value is None
            assert "reference can't be read" in outcome.note


def test_an_exact_reference_needs_no_trial_and_another_does():
    exact, symbolic = grade_mathematics("5", "x=5"), grade_mathematics(r"\sqrt{5}", "5")
    assert exact == Item(check=None, answer=("math", ("5", "x=5")))
    assert symbolic == Item(check=("math", (r"\sqrt{5}", r"\sqrt{5}")), answer=("math", (r"\sqrt{5}", "5")))


def test_irrational_values_in_other_units_differ():
    assert equal_exactly(read_quantity(r"\sqrt{2} \text{ m}"), read_quantity(r"\sqrt{2} \text{ cm}")) is False


SYMBOLIC = [
    (r"[0,\infty)", r"x \ge 0", 1.0),  # math-verify's default says wrong
    (r"\pi", "3.14159", 0.0),
    (r"\sqrt{2}", "1.414214", 0.0),  # right for math-verify, that rounds to six decimals
    (r"\frac{\sqrt{2}}{2^{200}}", r"\frac{\sqrt{2}}{2^{201}}", 0.0),  # likewise
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", 1.0),
    (r"0.1\sqrt{2}", r"\frac{\sqrt{2}}{10}", 1.0),
    ("x^2+2x+1", "(x+1)^2", 1.0),
    ("x+1", "y+1", 0.0),
    ("5", "x=5", 1.0),
    ("5", r"\sqrt{25}", 1.0),
    ("5x", "5", 0.0),
    (r"\{1,2\}", r"\{2,1\}", 1.0),
    ("(1,2)", "(2,1)", 0.0),
    (r"\infty", r"-\infty", 0.0),
    (r"\infty", r"\infty", 1.0),
    (r"1+2i", "2i+1", 1.0),
    ("5", "The answer is 5", 0.0),
    ("5", r"\frac{1}{0}", 0.0),
    ("???", "5", None),
    ("???", "???", None),
    # kept as math-verify has it (see the module's docstring)
    ("(1,2)", "1,2", 1.0),
    ("5", "6=5", 1.0),
    ("f(x)", "f(y)", 0.0),
]


@pytest.mark.slow
def test_symbolic_verdicts():
    reward = Accuracy(num_workers=1).build()
    scores = reward.score([answered(answer, reference=gold, task="math") for gold, answer, _ in SYMBOLIC])
    reward.pool.close()
    wrong = [
        (gold, answer, score)
        for (gold, answer, value), score in zip(SYMBOLIC, scores, strict=True)
        if score.value != value
    ]
    assert wrong == []
