"""Problems of reasoning-gym, the same in any order."""

import json
import random

import numpy
import pytest

from megatron_r1.errors import DataError
from megatron_r1.gym.problems import Problems, as_json, settings

pytestmark = pytest.mark.slow  # the library takes seconds to import


@pytest.mark.parametrize("family", ["list_functions", "pool_matrix"])
def test_order_and_the_global_generators_change_no_problem_and_are_not_changed(family):
    random.seed(1)
    numpy.random.seed(1)
    problems = Problems(family, {}, seed=9, size=64)
    forward = {index: problems[index] for index in range(10)}
    assert random.random() == random.Random(1).random()
    assert numpy.random.rand() == numpy.random.RandomState(1).rand()
    problems = Problems(family, {}, seed=9, size=64)
    assert {index: problems[index] for index in reversed(range(10))} == forward


def test_an_entry_is_what_json_makes_of_it():
    entry = {"a": (1, numpy.int64(2)), "b": {3: numpy.str_("x")}, "c": numpy.float64(0.5)}
    assert as_json(entry) == {"a": [1, 2], "b": {"3": "x"}, "c": 0.5}


def test_a_section_of_the_options_becomes_the_object_that_the_family_takes():
    options = {"board_format_opts": {"row_delimiter": "|"}}
    assert settings("rearc", options)["board_format_opts"].row_delimiter == "|"
    entry = Problems("rearc", options, seed=1, size=4)[0]
    assert "|" in entry["answer"]
    assert json.loads(json.dumps(entry)) == entry


def test_options_that_a_family_does_not_take_are_named():
    with pytest.raises(
        DataError, match=r"'chain_sum' does not take options \{'min_digits': 0\}: min_digits must be"
    ):
        Problems("chain_sum", {"min_digits": 0}, seed=1, size=4)
    with pytest.raises(DataError, match=r"'rearc' does not take options .*no_such"):
        Problems("rearc", {"board_format_opts": {"no_such": 1}}, seed=1, size=4)
    with pytest.raises(DataError, match="'rearc' can't make a problem with options"):
        Problems("rearc", {"board_format_opts": "x"}, seed=1, size=4)[0]
