from itertools import chain

import pytest
from pydantic import ValidationError

from megatron_r1.rl.schedules import LengthSchedule, reference_is_due, split_updates


def test_the_papers_limit_doubles_at_update_8200():
    schedule = LengthSchedule(steps={8200: 65536, 0: 32768})
    assert [schedule.at(update) for update in (0, 8199, 8200, 10399)] == [32768, 32768, 65536, 65536]
    assert schedule == LengthSchedule()


@pytest.mark.parametrize("steps", [{}, {1: 40}, {-1: 40, 0: 80}, {0: 0}, {0: 1.5}])
def test_a_schedule_must_begin_at_update_zero_with_positive_limits(steps):
    with pytest.raises(ValidationError):
        LengthSchedule(steps=steps)


def test_the_papers_reference_is_refreshed_after_every_25th_rollout_of_16_updates():
    due = [
        step for step in range(1, 101) if reference_is_due(before=16 * (step - 1), after=16 * step, every=400)
    ]
    assert due == [25, 50, 75, 100]


def test_a_multiple_inside_a_rollout_refreshes_at_its_end():
    due = [after for after in range(3, 31, 3) if reference_is_due(before=after - 3, after=after, every=10)]
    assert due == [12, 21, 30]


def test_without_a_period_the_reference_stays():
    assert not any(reference_is_due(before=n, after=n + 1, every=None) for n in range(1000))


def test_the_papers_rollout_gives_16_updates_of_512_outputs_each_output_once():
    updates = split_updates(8192, 16, seed=0, step=3)
    assert [len(update) for update in updates] == [512] * 16
    assert sorted(chain.from_iterable(updates)) == list(range(8192))


def test_uneven_sizes_differ_by_at_most_one():
    updates = split_updates(10, 4, seed=0, step=0)
    assert sorted(len(update) for update in updates) == [2, 2, 3, 3]
    assert sorted(chain.from_iterable(updates)) == list(range(10))


def test_each_inner_epoch_has_every_output_once_in_another_order():
    updates = split_updates(12, 3, seed=0, step=0, inner_epochs=2)
    first, second = (list(chain.from_iterable(epoch)) for epoch in (updates[:3], updates[3:]))
    assert len(updates) == 6
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_the_order_is_the_same_in_every_version():
    # indices sorted by `printf '(1, 2, 0, INDEX)' | b2sum -l 128`: they must outlive upgrades, so that a
    # resumed run has the same mini-batches
    assert split_updates(8, 2, seed=1, step=2) == [[7, 0, 5, 1], [3, 6, 4, 2]]


def test_the_order_depends_on_seed_and_step():
    orders = {str(split_updates(32, 1, seed=seed, step=step)) for seed in range(3) for step in range(3)}
    assert len(orders) == 9


def test_the_shuffle_is_fair():
    # output 0 of 4 should stand in each place about 250 times of 1000 (standard deviation 14)
    places = [split_updates(4, 1, seed=0, step=step)[0].index(0) for step in range(1000)]
    assert all(190 < places.count(place) < 310 for place in range(4))


def test_fewer_outputs_than_updates_give_no_empty_update():
    assert sorted(split_updates(3, 16, seed=0, step=0)) == [[0], [1], [2]]
    assert split_updates(0, 16, seed=0, step=0) == []
