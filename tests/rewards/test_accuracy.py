import time

import pytest

from megatron_r1.rewards.accuracy import Accuracy
from tests.rewards.samples import answered, completion


@pytest.fixture(scope="module")
def reward():
    reward = Accuracy(num_workers=1).build()
    yield reward
    reward.pool.close()


def test_literal_tasks_are_right_or_wrong(reward):
    cases = [
        ("integer", "13", "13", 1.0),
        ("integer", "13", "13.0", 1.0),
        ("integer", "13", "14", 0.0),
        ("integer", "13", "thirteen", 0.0),
        ("number", "0.5", r"\frac{1}{2}", 1.0),
        ("number", "0.3", "0.30000000000000004", 0.0),
        ("choice", "B", "(b)", 1.0),
        ("choice", "B", "C", 0.0),
        ("exact", "Paris", " paris. ", 1.0),
        ("exact", "Paris", "Paris, France", 0.0),
    ]
    scores = reward.score([answered(answer, reference=gold, task=task) for task, gold, answer, _ in cases])
    assert [score.value for score in scores] == [value for *_, value in cases]
    assert reward.pool.pids == []  # no process for what is compared exactly


@pytest.mark.parametrize("task", ["integer", "number", "choice", "exact"])
@pytest.mark.parametrize("answer", ["", "???", "7"])
def test_an_unreadable_reference_never_scores(reward, task, answer):
    reference = "" if task == "exact" else "???"
    score = reward.score([answered(answer, reference=reference, task=task)])[0]
    assert score.value is None
    assert "can't be read" in score.note


def test_an_unreadable_reference_is_ungradable_even_without_an_answer(reward):
    assert reward.score([completion("<think>", reference="", task="integer")])[0].value is None


def test_an_unknown_task_is_ungradable_and_lists_the_known(reward):
    score = reward.score([answered("7", reference="7", task="chess")])[0]
    assert score.value is None
    assert "'chess'" in score.note
    assert "integer" in score.note


def test_no_answer_is_wrong(reward):
    for text in (
        "<think>7",
        "<think>a</think>7",
        "<think>a</think><answer>7",
        "<think>7</think><answer></answer>",
    ):
        assert reward.score([completion(text, reference="7", task="integer")])[0].value == 0.0


def test_a_megabyte_of_digits_is_no_answer(reward):
    start = time.process_time()
    for task in ("integer", "number", "choice", "exact"):
        gold = "B" if task == "choice" else "7"
        assert reward.score([answered("7" * 1_000_000, reference=gold, task=task)])[0].value == 0.0
    assert time.process_time() - start < 0.2


def test_gym_without_its_entry_is_ungradable(reward):
    score = reward.score([answered("7", reference="7", task="gym:chain_sum")])[0]
    assert score.value is None
    assert "entry" in score.note


@pytest.mark.slow
def test_gym_answers_are_right_at_full_marks_only(reward):
    entry = {"question": "4 - 1 - 7 =", "answer": "-4", "metadata": {"source_dataset": "chain_sum"}}
    metadata = {"entry": entry}

    def given(answer, *, reference="-4", task="gym:chain_sum"):
        return answered(answer, reference=reference, task=task, metadata=metadata)

    samples = [
        given("-4"),
        given("the answer is -4"),  # 0.125 for reasoning-gym
        given(r"\boxed{-4}"),  # unwrapped by us; 0.2 for reasoning-gym
        given("5"),
        given("-4", reference="5"),  # the reference does not earn full marks itself
        given("-4", task="gym:no_such_family"),
        completion("<think>", reference="-4", task="gym:chain_sum", metadata=metadata),
    ]
    assert [s.value for s in reward.score(samples)] == [1.0, 0.0, 1.0, 0.0, None, None, 0.0]


@pytest.mark.slow
def test_gym_grades_by_the_family_s_verifier_and_an_entry_that_lacks_what_it_needs_is_ungradable(reward):
    about = {"integrand": "2*x", "variable": "x"}
    integral = {"question": "?", "answer": "Integral(2*x, x)", "metadata": about}
    cases = [
        ("intermediate_integration", integral, "x^2 + C", 1.0),
        ("intermediate_integration", integral, "Integral(2*x, x)", 0.0),
        ("intermediate_integration", integral | {"metadata": {}}, "x**2", None),
        ("coin_flip", {"question": "?", "answer": "0.5", "metadata": {}}, "1/2", None),
        ("game_of_life_halting", {"question": "?", "answer": "True", "metadata": {}}, "x", 0.0),
        (
            "puzzle24",
            {"question": "?", "answer": "8*3", "metadata": {"numbers": [3, 8]}},
            "__import__('os')",
            0.0,
        ),
        ("puzzle24", {"question": "?", "answer": "8*3", "metadata": {"numbers": [3, 8]}}, "3*8", 1.0),
    ]
    samples = [
        answered(text, reference=entry["answer"], task=f"gym:{family}", metadata={"entry": entry})
        for family, entry, text, _ in cases
    ]
    assert [score.value for score in reward.score(samples)] == [value for *_, value in cases]


@pytest.mark.slow
def test_mixed_tasks_stay_aligned(reward):
    cases = [
        ("math", r"\sqrt{8}", r"2\sqrt{2}", 1.0),
        ("integer", "3", "3", 1.0),
        ("math", "???", "3", None),
        ("math", r"\sqrt{8}", "3", 0.0),
        ("chess", "3", "3", None),
        ("math", "3", "3", 1.0),
        ("math", r"\sqrt{8}", r"2\sqrt{2}", 1.0),
    ]
    scores = reward.score([answered(answer, reference=gold, task=task) for task, gold, answer, _ in cases])
    assert [score.value for score in scores] == [value for *_, value in cases]
