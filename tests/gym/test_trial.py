"""The trial, on reasoning-gym itself and on scorers that pay for wrong answers."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from megatron_r1.gym import scoring, trial
from megatron_r1.gym.problems import Problems
from megatron_r1.gym.verifiers import FORMS, VERIFIERS
from megatron_r1.gym.wrong_answers import wrong_answers

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs/reasoning_gym.md").read_text(encoding="utf-8")
ROWS = {
    row[0]: row[1:]
    for row in re.findall(r"^\| (\w+) \| (used|refused) \| (\S+).* \| (.*?) ?\|$", TABLE, re.M)
}

ENTRY = {"question": "Calculate: 7 + 5. Respond with a number.", "answer": "12", "metadata": {"sum": "7 + 5"}}
OTHER = {"question": "Calculate: 7 + 6.", "answer": "13", "metadata": {}}


def fault(pays):
    """Of a scorer of ENTRY that is fair to OTHER."""
    return trial.fault_of(
        "any", [ENTRY, OTHER], lambda entry, answer: pays(answer) if entry is ENTRY else answer == "13"
    )


def test_the_table_says_what_the_code_does():
    ours = {family for family, (_, by, _) in ROWS.items() if by == "ours"}
    assert ours == set(VERIFIERS) - set(trial.UNREPEATABLE)
    in_form = {family for family in FORMS if f"| {family} | used | library; only" in TABLE}
    assert in_form == set(FORMS)
    assert {f for f, (*_, why) in ROWS.items() if why == "gives other problems in every process"} == set(
        trial.UNREPEATABLE
    )
    assert all(why == VERIFIERS[family][1] for family, (_, by, why) in ROWS.items() if by == "ours")
    assert len(ROWS) == 105


def test_the_table_is_of_the_version_that_is_pinned_and_installed():
    pinned = re.search(r"reasoning-gym==([0-9.]+)", (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    assert f"# Families of reasoning-gym {pinned[1]}\n" in TABLE
    assert version("reasoning-gym") == pinned[1]


@pytest.mark.parametrize(
    ("pays", "kind"),
    [
        (lambda answer: answer != "", "constant: '0'"),
        (lambda answer: bool(answer) == bool("12"), "constant: '0'"),
        (lambda answer: answer in ("12", "yes"), "constant: 'yes'"),
        (lambda answer: answer.strip("-") == "12", "sign: '-12'"),
        (lambda answer: answer[:1] == "1" and len(answer) == 2, "constant: '10'"),
        (lambda answer: answer in ("12", "13"), "digit: '13'"),
        (lambda answer: answer.startswith("12"), "nudge: '12.001'"),
        (lambda answer: "12" in answer.split(), "two answers: '12 or 13'"),
        (lambda answer: answer in ("12", "7 + 5"), "the question: '7 + 5'"),
        (
            lambda answer: answer == "12" or answer.startswith("integrate(7"),
            "the question: 'integrate(7 + 5, x)'",
        ),
        (lambda answer: answer == "12" or "Respond" in answer, "the question: 'Calculate"),
    ],
)
def test_a_scorer_that_pays_for_a_wrong_answer_is_refused_with_that_answer(pays, kind):
    found = fault(pays)
    assert found is not None
    assert found.startswith(f"scores a wrong answer right ({kind}")
    assert found.endswith("for '12')")


def test_a_scorer_that_executes_answers_is_refused():
    def executes(answer):
        try:
            return eval(answer) == 12
        except Exception:
            return False

    assert fault(executes) == "executes what a model answers"


def test_a_fair_scorer_passes():
    assert fault(lambda answer: answer == "12") is None


@pytest.mark.parametrize(
    ("right", "answer", "fault"),
    [
        (6, "12", None),  # items that are not right themselves are left out, up to a half
        (5, "12", "does not score its own answer '12' right"),
        (12, None, "has no answer of its own to try (it is null)"),
    ],
)
def test_most_items_must_be_right_by_their_own_answer(right, answer, fault):
    items = [ENTRY | {"answer": answer, "metadata": {"index": index}} for index in range(12)]
    found = trial.fault_of(
        "any", items, lambda entry, text: text == entry["answer"] and entry["metadata"]["index"] < right
    )
    assert found == fault


def test_what_reads_as_the_right_answer_is_no_wrong_one():
    for right, same in (("0.5", {"1/2", ".5", "0.50"}), ("True", {"true"}), ("['1.0', '2']", {"['1', '2']"})):
        entry = {"question": "?", "answer": right, "metadata": {}}
        found = {answer for _, answer in wrong_answers("any", entry, [OTHER])}
        assert not found & {right, *same}
        assert len(found) > 40


@pytest.mark.slow
@pytest.mark.parametrize("family", ["number_sorting", "coin_flip", "syllogism", "puzzle24", "sokoban"])
def test_families_in_use_pass_their_trial_and_would_not_on_the_library_s_word(family):
    assert trial.refusal(family, {}) is None
    problems = Problems(family, {}, seed=1, size=8)
    library = trial.fault_of(
        family,
        [problems[index] for index in range(4)],
        lambda entry, answer: scoring.library_score(family, {}, entry, answer) == 1,
    )
    assert (library is None) == (family == "syllogism")


@pytest.mark.slow
def test_options_reach_the_library_s_scorer():
    """The longest difference of time_intervals, by which its scorer gives partial credit."""
    entry = {"question": "?", "answer": "10 days", "metadata": {"task_type": "date"}}
    scores = [
        scoring.library_score("time_intervals", {"max_date_difference_days": days}, entry, "12 days")
        for days in (4, 8)
    ]
    assert scores == [0.5, 0.75]
