"""Order, margin and lengths of judged pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_r1.curation.pairs import judged, orders, unbalanced


@given(st.integers(1, 5), st.integers(min_value=0, max_value=2**64 - 1))
def test_half_of_the_times_the_two_are_swapped(half: int, key: int) -> None:
    found = orders(2 * half, key=key)
    assert len(found) == 2 * half
    assert sum(found) == half


def test_which_times_depends_on_the_key() -> None:
    assert len({tuple(orders(4, key=key)) for key in range(100)}) == 6  # all of the 4 choose 2


def test_the_mean_difference_decides_and_a_swap_turns_it() -> None:
    swapped = [False, True, False, True]
    assert judged([(7, 4), (4, 7), (8, 4), (5, 7)], swapped).margin == (3 + 3 + 4 + 2) / 4
    assert judged([(4, 7), (7, 4), (4, 7), (7, 4)], swapped).margin == -3


def test_a_judge_that_always_prefers_the_first_place_says_nothing() -> None:
    for key in range(20):
        assert judged([(9, 2)] * 4, orders(4, key=key)).margin == 0


def test_one_answer_that_is_no_verdict_spoils_the_pair() -> None:
    assert judged([(7, 4), None, (7, 4), (7, 4)], [False] * 4).margin is None


def test_the_widest_gaps_of_the_longer_side_go_first() -> None:
    gaps, lengths = [50, 10, -10, 1, -1], [150, 110, 110, 101, 101]
    assert unbalanced(gaps, lengths) == {0}
    assert unbalanced([-g for g in gaps], lengths) == {0}
    assert unbalanced([0, 0], [10, 10]) == set()
    assert unbalanced([], []) == set()


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), max_size=60))
def test_balancing_never_widens_the_gap_of_the_means(pairs: list[tuple[int, int]]) -> None:
    gaps = [a - b for a, b in pairs]
    left_out = unbalanced(gaps, [a + b for a, b in pairs])
    kept = [g for i, g in enumerate(gaps) if i not in left_out]
    assert abs(sum(kept)) <= abs(sum(gaps))
    if left_out:  # only the side that prevailed gives way
        assert all(g * sum(gaps) > 0 for i, g in enumerate(gaps) if i in left_out)


def test_a_clear_bias_is_repaired_to_the_tolerance() -> None:
    pairs = [(100 + i % 40, 100) for i in range(200)] + [(100, 100 + i % 40) for i in range(100)]
    gaps, lengths = [a - b for a, b in pairs], [a + b for a, b in pairs]
    left_out = unbalanced(gaps, lengths)
    kept = [pair for i, pair in enumerate(pairs) if i not in left_out]
    chosen, rejected = (sum(column) / len(kept) for column in zip(*kept, strict=True))
    assert chosen == pytest.approx(rejected, rel=0.021)
    assert len(kept) > 200
