"""A stage's model is gone with the stage: the next one's would not fit beside it on a GPU."""

import pytest

from tests.distributed.harness import plan
from tests.distributed.harness.ranks import Results

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", ["v3", "qwen2"])
def test_nothing_of_a_trained_policy_is_left(one: Results, family: str):
    assert one[f"forgotten_{family}_one"] == []


@pytest.mark.parametrize("layout", plan.FORGOTTEN_TWO)
def test_nothing_is_left_on_any_of_two_ranks(two: Results, layout: str):
    assert two.ranks(f"forgotten_{layout}") == [[], []]
