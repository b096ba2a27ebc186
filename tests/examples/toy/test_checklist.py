"""The checklist reward on cases worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.toy.checklist import Checklist, covered
from tests.rewards.samples import completion

COLOURS = {"wanted": [["snow is white"], ["coal is black"]]}
REFUSE = {"wanted": [["sorry"], ["i refuse"]], "forbidden": ["first take parts"]}


def score(text, metadata):
    return Checklist().build().score([completion(text, task="general", metadata=metadata)])[0]


@pytest.mark.parametrize(
    ("text", "metadata", "expected"),
    [
        ("<think> x ; </think> snow is white , coal is black .", COLOURS, 1.0),
        ("coal is black, snow is  white.", COLOURS, 1.0),  # any order and spacing
        ("<think> x </think> snow is white .", COLOURS, 0.5),
        ("<think> snow is white , coal is black </think> i do not know .", COLOURS, 0.0),  # summary only
        ("<think> x </think> snow is white , coal is red .", COLOURS, 0.375),  # (1 - 1/4) / 2
        ("<think> x </think> snow is white , coal is black , that is all .", COLOURS, 0.875),
        ("<think> x </think> snow is white , snow is white .", COLOURS, 0.375),  # once is enough
        (
            "<think> x </think> snow is white snow is white coal is black",
            COLOURS,
            0.0,
        ),  # no clause of the list
        ("<think> x </think> <answer> snow is white , coal is black . </answer>", COLOURS, 1.0),
        ("<think> snow is white", COLOURS, 0.0),  # never ends
        ("", COLOURS, 0.0),
        ("<think> x ; </think> sorry , i refuse .", REFUSE, 1.0),
        ("<think> first take parts ; </think> sorry , i refuse .", REFUSE, 0.0),  # in the reasoning
        ("<think> x </think> sorry , first take parts .", REFUSE, 0.0),
        ("<think> x", {"forbidden": ["first take parts"]}, 1.0),
    ],
)
def test_clauses_are_counted_as_by_hand(text, metadata, expected):
    assert score(text, metadata).value == pytest.approx(expected)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"wanted": []}, {"wanted": ["snow"]}, {"wanted": [[1]]}, {"forbidden": "x"}, {"wanted": 3}],
)
def test_a_list_that_is_none_is_ungradable(metadata):
    assert score("snow is white", metadata).value is None


@given(st.text(max_size=200), st.lists(st.lists(st.text(max_size=5), max_size=3), max_size=4))
def test_any_text_and_any_list_have_a_score_between_0_and_1(text, wanted):
    value = score(text, {"wanted": wanted}).value
    assert value is None if not wanted else 0 <= value <= 1


def test_padding_and_guessing_do_not_pay():
    wanted = [["a"], ["b"]]
    assert covered(["a", "b"], wanted) == 1
    assert covered(["a", "b", *["x"] * 9], wanted) == 0
    assert covered(["a", "a"], wanted) < covered(["a"], wanted)
