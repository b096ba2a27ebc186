import pytest

from megatron_r1.rewards.accuracy import Accuracy
from megatron_r1.rewards.combine import combine
from megatron_r1.rewards.votes import majorities
from tests.rewards.samples import answered, completion


@pytest.fixture(scope="module")
def reward():
    reward = Accuracy(num_workers=1).build()
    yield reward
    reward.pool.close()


def majority(reward, samples):
    return majorities(reward, [combine(samples, {"accuracy": (1.0, reward)})])[0]


def of(reward, reference, *answers, task="math"):
    return majority(reward, [answered(answer, reference=reference, task=task) for answer in answers])


def test_right_answers_in_several_forms_are_one_vote(reward):
    assert of(reward, "0.5", "3", "1/2", "3", "0.5", r"\frac{1}{2}") == 1.0
    assert of(reward, "B", "C", "(B)", "C", "B.", r"\text{B}", task="choice") == 1.0
    assert of(reward, "1000", "7", "1,000", "7", "1000", "1000.0", task="integer") == 1.0


def test_wrong_answers_in_several_forms_are_one_vote_too(reward):
    assert of(reward, "3", "3", "1/2", "3", "0.5", r"\frac{1}{2}") == 0.0
    assert of(reward, "7", "7", "1,000", "7", "1000", "1000.0", task="integer") == 0.0
    assert of(reward, "Rome", "Rome", "Paris", "paris.", "PARIS", "Rome", task="exact") == 0.0


@pytest.mark.slow
def test_wrong_answers_are_compared_by_algebra(reward):
    forms = [r"\sqrt{8}", r"2\sqrt{2}", r"\frac{4}{\sqrt{2}}"]
    assert of(reward, "3", "3", "3", *forms) == 0.0
    assert of(reward, "3", "3", "3", r"\sqrt{8}", r"\sqrt{7}", r"\sqrt{6}") == 1.0


def test_different_answers_are_different_votes_and_the_first_of_a_tie_wins(reward):
    assert of(reward, "3", "4", "3", "5", "3") == 1.0
    assert of(reward, "3", "4", "3", "3", "4") == 0.0
    assert of(reward, "3", "3", "4", "4", "3") == 1.0
    assert of(reward, r"5\text{ cm}", "5 m", "5 m", "5 cm") == 0.0


def test_no_answer_is_no_vote_and_an_ungradable_question_has_no_majority(reward):
    silent = [completion("<think>", reference="3", task="math") for _ in range(3)]
    assert majority(reward, [*silent, answered("3", reference="3", task="math")]) == 1.0
    assert majority(reward, silent) == 0.0
    assert of(reward, "???", "3", "3") is None


def test_a_hundred_different_answers_are_compared_as_far_as_the_bound_says(reward):
    assert of(reward, "3", *(str(n) for n in range(4, 104)), "3", "3") == 1.0
