"""Verdicts on pairs of (reference, answer) as a mathematician would give them.

math_pairs.jsonl has [task, reference, answer, 1 or 0] from public bug reports on such verifiers (math-verify,
lm-evaluation-harness, Qwen2.5-Math, open-r1), answers of MATH-500, Chinese sets, and ours after them.
"""

import json
import time
from pathlib import Path

import pytest

from megatron_r1.rewards.accuracy import Accuracy
from megatron_r1.rewards.answers.mathematics import grade_mathematics, read
from megatron_r1.rewards.grading.pooled import Item
from megatron_r1.rewards.math.algebra import equal_statements, is_readable
from megatron_r1.types import Score
from tests.rewards.samples import answered

TABLE = Path(__file__).parents[1] / "math_pairs.jsonl"
GRADERS = {"math": equal_statements, "math_reference": is_readable}


def grade(reference, answer):
    """As the accuracy reward does, with the pool's part done here."""
    outcome = grade_mathematics(reference, answer)
    if isinstance(outcome, Score):
        return outcome.value
    for job in (outcome.check, outcome.answer):
        if isinstance(job, Score):
            return job.value
        if job is not None and not GRADERS[job[0]](*job[1]):
            return None if job is outcome.check else 0.0
    return 1.0


def pairs():
    return [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]


def test_every_pair_of_the_table_has_its_right_verdict():
    found = {(r, a): grade(r, a) for task, r, a, _ in pairs() if task == "math"}
    expected = {(r, a): value for task, r, a, value in pairs() if task == "math"}
    wrong = [
        (*pair, expected[pair], value) for pair, value in found.items() if (value or 0) != expected[pair]
    ]
    assert wrong == []
    assert len(found) > 1300


def test_every_pair_of_the_other_tasks_has_its_right_verdict():
    reward = Accuracy(num_workers=1).build()
    others = [row for row in pairs() if row[0] != "math"]
    scores = reward.score([answered(answer, reference=gold, task=task) for task, gold, answer, _ in others])
    wrong = [(row, s) for row, s in zip(others, scores, strict=True) if (s.value or 0) != row[3]]
    assert wrong == []
    assert reward.pool.pids == []


WITHOUT_POOL = [
    # seconds each for a computer algebra
    ("5", "9^9^9^9", 0.0),
    ("5", "1000000!", 0.0),
    ("5", "(" * 200 + "5" + ")" * 200, 0.0),
    ("5", "x + 9^{9^9}", 0.0),
    ("5", "5" * 2001, 0.0),
    # exact
    ("1/2^{99}", "1/2^{98}", 0.0),
    ("1/2004!", "1/2006!", 0.0),
    ("1/2^{99}", "2^{-99}", 1.0),
    (r"50\%", r"\frac12", 1.0),
    (r"1\text{ m}^2", "10000 cm^2", 1.0),
    ("5 apples", "5 oranges", 0.0),
    (r"\boxed{5}", "$5$", 1.0),
    (r"\frac{1}{2}, \frac13", "0.5, 1/3", 1.0),
    ("Paris", "Rome", 0.0),
]


@pytest.mark.parametrize(("reference", "answer", "value"), WITHOUT_POOL)
def test_exact_rules_decide_without_a_process(reference, answer, value):
    start = time.process_time()
    outcome = grade_mathematics(reference, answer)
    assert isinstance(outcome, Score)
    assert outcome.value == value
    assert time.process_time() - start < 0.2


UNGRADABLE = [
    "",
    "  ",
    "???",
    "9^9^9^9",
    "x" * 3000,
    "We have shown that there are many such numbers",
    "Because n is even, it follows",
    "The sum is 12 and so we are done",
    "See the solution. It is long",
]


@pytest.mark.parametrize("reference", UNGRADABLE)
def test_references_that_cannot_be_read_are_ungradable_whatever_the_answer(reference):
    for answer in ("5", None, reference):
        outcome = grade_mathematics(reference, answer)
        assert isinstance(outcome, Score)
        assert outcome.value is None
        assert "reference can't be read" in outcome.note


def test_an_exact_reference_needs_no_trial_and_another_does():
    five, root = read("5").readings, read(r"\sqrt{5}").readings
    assert grade_mathematics("5", r"\sqrt{5}") == Item(check=None, answer=("math", (five, root)))
    trial = ("math_reference", (root,))
    wrong = grade_mathematics(r"\sqrt{5}", "5")
    assert wrong == Item(check=trial, answer=("math", (root, five)))
    assert grade_mathematics(r"\sqrt{5}", r"\sqrt5") == Item(check=trial, answer=Score(1.0))


GARBAGE = [
    "\\",
    "{",
    "(",
    "[",
    "|",
    "\\frac",
    "\\sqrt",
    "^",
    "_",
    "-",
    "1,",
    "0.(",
    "x ",
    "\\text{a",
    "√",
    "½",
    "a/",
    "$",
]


@pytest.mark.parametrize("piece", GARBAGE)
def test_two_thousand_characters_of_garbage_are_read_at_once(piece):
    start = time.process_time()
    read(piece * (2000 // len(piece)))
    read("5" + piece * (1999 // len(piece)))
    assert time.process_time() - start < 1.0


SYMBOLIC = [
    (r"[0,\infty)", r"x \ge 0", 1.0),
    (r"\sqrt{2}", "1.414214", 0.0),
    (r"\frac{\sqrt{2}}{2^{200}}", r"\frac{\sqrt{2}}{2^{201}}", 0.0),
    (r"2^{200} + \sqrt{2}", r"2^{200} + \sqrt{3}", 0.0),
    (r"0.1\sqrt{2}", r"\frac{\sqrt{2}}{10}", 1.0),
    (r"\sqrt{2} \text{ m}", r"100\sqrt{2} \text{ cm}", 1.0),
    (r"\sqrt{2} \text{ m}", r"\sqrt{2} \text{ cm}", 0.0),
    ("5", r"\frac{1}{0}", 0.0),
    ("???", "???", None),
]


@pytest.mark.slow
def test_symbolic_verdicts_of_the_pool():
    reward = Accuracy(num_workers=1).build()
    scores = reward.score([answered(answer, reference=gold, task="math") for gold, answer, _ in SYMBOLIC])
    reward.pool.close()
    assert [score.value for score in scores] == [value for *_, value in SYMBOLIC]
