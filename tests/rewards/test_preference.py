"""Helpful reads the summary, harmless everything; what can't be read gets the lowest score of its prompt."""

import math
from collections.abc import Sequence

import pytest

from megatron_r1.errors import ConfigError
from megatron_r1.rewards.base import ELSEWHERE
from megatron_r1.rewards.harmless import Harmless
from megatron_r1.rewards.helpful import Helpful
from megatron_r1.rewards.preference import NO_SUMMARY, UNREADABLE, summary_of
from megatron_r1.types import Document, Score
from tests.rewards.samples import completion


class CountsLetters:
    """A reward model that likes the letter a, and can't read a ?."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def score(self, documents: Sequence[Document]) -> list[float | None]:
        self.read += [d.response for d in documents]
        return [None if "?" in d.response else float(d.response.count("a")) for d in documents]


def general(text: str):
    return completion(text, task="general")


def test_helpful_reads_the_summary_and_harmless_the_whole_response() -> None:
    text, model = "<think> aaa </think> one a ", CountsLetters()
    assert Helpful(model="rm").with_model(model).score([general(text)]) == [Score(1.0)]
    assert Harmless(model="rm", scale="score").with_model(model).score([general(text)]) == [Score(4.0)]
    assert model.read == ["one a", text.strip()]


def test_without_a_summary_the_lowest_score_of_the_prompt_holds() -> None:
    texts = [
        "<think>x</think> aa",
        "<think> aaaa never ends",
        "<think>x</think>a",
        "<think>x</think>  ",
        "a ?",
    ]
    found = Helpful(model="rm").with_model(CountsLetters()).score([general(text) for text in texts])
    assert found == [
        Score(2.0), Score(1.0, NO_SUMMARY), Score(1.0), Score(1.0, NO_SUMMARY), Score(1.0, UNREADABLE),
    ]  # fmt: skip


def test_where_no_response_of_the_prompt_can_be_read_all_are_equal() -> None:
    found = Helpful(model="rm").with_model(CountsLetters()).score([general("<think>"), general("?")])
    assert [score.value for score in found] == [0.0, 0.0]


def test_a_probability_is_the_sigmoid_of_the_score_and_never_overflows() -> None:
    class Extreme:
        def score(self, documents: Sequence[Document]) -> list[float | None]:
            return [2.0, -800.0, 800.0]

    found = Harmless(model="rm").with_model(Extreme()).score([general("x")] * 3)
    assert [s.value for s in found] == pytest.approx([1 / (1 + math.exp(-2)), 0.0, 1.0])


def test_prompts_of_other_tasks_are_left_alone_but_the_model_is_asked_all_the_same() -> None:
    model = CountsLetters()
    found = Helpful(model="rm").with_model(model).score([completion("a", task="math")])
    assert found == [ELSEWHERE]
    assert model.read == []  # asked with nothing: other ranks may have something


def test_it_says_that_it_needs_its_model() -> None:
    with pytest.raises(
        ConfigError, match=r"model: rm\) needs its model on the ranks, which only grpo provides"
    ):
        Helpful(model="rm").scorer()


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("<think>a</think> b ", "b"),
        ("<think>a</think><think>b</think> c", "c"),
        ("no reasoning", "no reasoning"),
        ("<think>a", None),
        ("<think>a</think>\n", None),
        ("", None),
    ],
)
def test_the_summary_is_what_follows_the_reasoning(text: str, summary: str | None) -> None:
    assert summary_of(text) == summary
