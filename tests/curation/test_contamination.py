import pytest

from megatron_r1.curation.contamination import EvaluationText
from megatron_r1.types import Message, Prompt

LONG = "Anna has three red apples and buys five more at the market, how many now?"


def prompt(text):
    return Prompt("p", (Message("user", text),), "8", "integer")


@pytest.fixture
def evaluation():
    return EvaluationText([prompt(LONG), prompt("7 + 8 - 2")])


@pytest.mark.parametrize(
    ("question", "response"),
    [
        (LONG, "8"),
        ("anna has THREE red apples and  buys five more at home", "8"),  # ten words, other case and space
        ("What?", f"The question was: {LONG}"),
        ("7 + 8 - 2", "13"),
        (" 7+8 -2", "13"),
    ],
)
def test_ten_words_in_a_row_or_a_short_question_whole_are_found(evaluation, question, response):
    assert evaluation.is_in(question, response)


@pytest.mark.parametrize(
    ("question", "response"),
    [
        ("Anna has three red apples and buys five more", "8"),  # nine
        ("Anna has three green apples and buys five more at the market", "8"),
        ("7 + 8 + 2", "17"),
        ("1 + 7 + 8 - 2", "14"),
        ("What?", "7 + 8 - 2 is 13"),  # a short run means nothing inside an answer
        ("", ""),
    ],
)
def test_less_than_ten_words_in_a_row_are_not(evaluation, question, response):
    assert not evaluation.is_in(question, response)


def test_the_length_of_a_run_can_be_chosen():
    assert EvaluationText([prompt(LONG)], n=5).is_in("Anna has three red apples", "")
