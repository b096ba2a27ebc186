import math
from dataclasses import replace

import pytest

from megatron_r1.errors import GateError
from megatron_r1.rewards.combine import combine
from megatron_r1.types import Score
from tests.rewards.samples import completion


class Fixed:
    def __init__(self, *values: float | None) -> None:
        self.scores = [Score(value, "" if value is not None else "no gold") for value in values]

    def score(self, completions):
        return self.scores


SAMPLES = [completion("a"), completion("b"), completion("c")]


def test_reward_is_the_weighted_sum_in_the_order_of_the_completions():
    scored = combine(
        SAMPLES, {"accuracy": (1.0, Fixed(1.0, 0.0, 1.0)), "format": (0.2, Fixed(1.0, 1.0, 0.0))}
    )
    assert [s.reward for s in scored] == pytest.approx([1.2, 0.2, 1.0])
    assert [s.completion.text for s in scored] == ["a", "b", "c"]


def test_an_ungradable_part_leaves_no_reward_and_keeps_its_note():
    scored = combine(
        SAMPLES, {"accuracy": (1.0, Fixed(1.0, None, 0.0)), "format": (0.2, Fixed(1.0, 1.0, 1.0))}
    )
    assert scored[1].reward is None
    assert scored[1].parts == {"accuracy": Score(None, "no gold"), "format": Score(1.0)}
    assert [s.reward is None for s in scored] == [False, True, False]


def test_the_note_of_what_cannot_be_graded_says_where_its_prompt_was_read():
    sample = completion("a")
    placed = replace(sample, prompt=replace(sample.prompt, place="q.jsonl:7"))
    [scored] = combine([placed], {"code": (1.0, Fixed(None)), "format": (1.0, Fixed(1.0))})
    assert scored.parts == {"code": Score(None, "q.jsonl:7: no gold"), "format": Score(1.0)}


def test_an_ungradable_part_of_weight_zero_still_leaves_no_reward():
    assert combine(SAMPLES[:1], {"watched": (0.0, Fixed(None))})[0].reward is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_names_reward_and_sample(value):
    with pytest.raises(GateError, match=r"rewards\.broken.*sample 1"):
        combine(SAMPLES, {"broken": (1.0, Fixed(0.0, value, 0.0))})


def test_a_wrong_number_of_scores_names_the_reward():
    with pytest.raises(GateError, match=r"rewards\.short: returned 2 scores for 3"):
        combine(SAMPLES, {"short": (1.0, Fixed(0.0, 1.0))})


def test_parts_show_a_reward_that_never_varies():
    scored = combine(SAMPLES, {"dead": (1.0, Fixed(0.0, 0.0, 0.0)), "live": (1.0, Fixed(0.0, 1.0, 0.0))})
    spread = {name: len({s.parts[name].value for s in scored}) for name in ("dead", "live")}
    assert spread == {"dead": 1, "live": 2}
