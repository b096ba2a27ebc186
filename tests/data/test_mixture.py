import itertools
from collections import Counter

import pytest

from examples.toy.arithmetic import Arithmetic
from megatron_r1.data.mixture import Mixture, build_mixture, replica_range
from megatron_r1.types import Document, Prompt


class Numbered:
    def __init__(self, name, size=None):
        self.name, self.size = name, size

    def prompt(self, index):
        return Prompt(f"{self.name}{index}", (), "", "integer")

    def document(self, index):
        return Document((), f"{self.name}{index}")


WEIGHTS = {"a": 5.0, "b": 3.0, "c": 1.0, "d": 1.0}


def mixture(weights):
    return Mixture({name: Numbered(name) for name in weights}, weights)


@pytest.mark.parametrize("weights", [WEIGHTS, {"a": 1.0}, {"a": 0.1, "b": 0.2, "c": 0.7}])
def test_each_source_is_walked_in_order_without_gaps(weights):
    expected = {name: itertools.count() for name in weights}
    for i in range(1000):
        name, inner = mixture(weights).locate(i)
        assert inner == next(expected[name])


def test_every_stretch_of_the_stream_has_the_same_shares():
    mixed = mixture(WEIGHTS)
    for first in (0, 7, 999_990):
        counts = Counter(mixed.locate(first + i)[0] for i in range(100))
        for name, weight in WEIGHTS.items():
            assert abs(counts[name] - 10 * weight) <= 2


def test_items_come_from_the_located_source():
    mixed = mixture({"a": 1.0, "b": 1.0})
    assert [mixed.prompt(i).id for i in range(4)] == ["a0", "b0", "a1", "b1"]
    assert mixed.document(3).response == "b1"


def test_size_is_the_sum_and_none_if_one_is_endless():
    weights = {"a": 1.0, "b": 2.0}
    assert Mixture({"a": Numbered("a", 3), "b": Numbered("b", 4)}, weights).size == 7
    assert Mixture({"a": Numbered("a", 3), "b": Numbered("b")}, weights).size is None


def test_two_sources_of_one_kind_get_seeds_of_their_own():
    mixed = build_mixture({"a": Arithmetic(weight=3.0), "b": Arithmetic()}, seed=1)
    assert [mixed.locate(i)[0] for i in range(8)].count("b") == 2
    first_of = {name: mixed.prompt(i) for i in reversed(range(8)) for name in [mixed.locate(i)[0]]}
    assert first_of["a"] != first_of["b"]
    again = build_mixture({"a": Arithmetic(weight=3.0), "b": Arithmetic()}, seed=1)
    assert again.prompt(5) == mixed.prompt(5)


def test_replicas_take_every_item_once_whatever_the_start():
    for first in (0, 5, 6):
        ranges = [replica_range(first, 10, index=r, num_replicas=4) for r in range(4)]
        assert sorted(i for taken in ranges for i in taken) == list(range(first, first + 10))
        assert all(i % 4 == r for r, taken in enumerate(ranges) for i in taken)


def test_what_each_source_has_had_is_counted():
    mixed = mixture(WEIGHTS)
    for count in (0, 1, 7, 100, 12_345):
        taken = Counter(mixed.locate(i)[0] for i in range(count))
        assert mixed.counts(count) == {name: taken[name] for name in WEIGHTS}


def test_a_mixture_goes_on_where_another_stopped():
    before = mixture({"a": 2.0, "b": 1.0})
    after = Mixture(
        {name: Numbered(name) for name in "abc"}, {"a": 1.0, "b": 1.0, "c": 1.0}, starts=before.counts(30)
    )
    ids = [before.prompt(i).id for i in range(30)] + [after.prompt(i).id for i in range(30)]
    assert sorted(ids) == sorted(
        [*(f"a{i}" for i in range(30)), *(f"b{i}" for i in range(20)), *(f"c{i}" for i in range(10))]
    )
