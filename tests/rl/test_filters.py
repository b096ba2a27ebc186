from dataclasses import replace

import pytest

from megatron_r1.rl.filters import GroupFilter, collect_groups, group_kind
from megatron_r1.types import Completion, Prompt, Score, Scored


def group(*rewards: float | None) -> list[Scored]:
    prompt = Prompt(id="p", messages=(), reference="", task="")
    completion = Completion(prompt, [], [], [], "", finished=True, policy_version=0)
    return [Scored(completion, reward, {}) for reward in rewards]


RIGHT_AND_WRONG, ALL_WRONG, UNGRADABLE = group(1.0, 0.0), group(0.0, 0.0), group(1.0, None)


def rounds_of(*rounds):
    """A sampler that gives these rounds, and the list of its calls."""
    calls: list[tuple[int, int]] = []

    def sample(round_, count):
        calls.append((round_, count))
        return rounds[round_]

    return sample, calls


@pytest.mark.parametrize(
    ("rewards", "kind"),
    [
        ((1.0, 0.0, 0.0), "signal"),
        ((1.0, None, 0.0), "signal"),
        ((1.0, 1.0, None), "equal"),
        ((1.0, None, None), "ungradable"),
        ((None, None), "ungradable"),
    ],
)
def test_the_kind_of_a_group_follows_from_its_gradable_rewards(rewards, kind):
    assert group_kind(group(*rewards)) == kind


def test_rewards_that_add_up_to_the_same_are_a_signal_where_each_is_normalised_for_itself():
    outputs = [
        replace(one, parts={"accuracy": Score(a), "format": Score(1 - a)})
        for one, a in zip(group(1.0, 1.0), (0.0, 1.0), strict=True)
    ]
    assert group_kind(outputs) == "equal"
    assert group_kind(outputs, apart=("accuracy", "format")) == "signal"
    assert group_kind(outputs, apart=("language",)) == "equal"


def test_keep_takes_all_groups_in_one_round_and_counts_them():
    sample, calls = rounds_of([RIGHT_AND_WRONG, ALL_WRONG, UNGRADABLE])
    groups, counts = collect_groups(sample, options=GroupFilter(), num_groups=3)
    assert groups == [RIGHT_AND_WRONG, ALL_WRONG, UNGRADABLE]
    assert calls == [(0, 3)]
    assert counts.as_metrics() == {"groups/signal": 1, "groups/equal": 1, "groups/ungradable": 1}


def test_drop_leaves_a_smaller_batch():
    sample, calls = rounds_of([ALL_WRONG, RIGHT_AND_WRONG, UNGRADABLE])
    groups, counts = collect_groups(sample, options=GroupFilter(no_signal="drop"), num_groups=3)
    assert groups == [RIGHT_AND_WRONG]
    assert len(calls) == counts.rounds == 1


def test_resample_asks_for_what_is_missing_until_the_batch_is_full():
    sample, calls = rounds_of(
        [ALL_WRONG, RIGHT_AND_WRONG, ALL_WRONG], [UNGRADABLE, ALL_WRONG], [RIGHT_AND_WRONG] * 2
    )
    groups, counts = collect_groups(sample, options=GroupFilter(no_signal="resample"), num_groups=3)
    assert groups == [RIGHT_AND_WRONG] * 3
    assert calls == [(0, 3), (1, 2), (2, 2)]
    assert counts.kinds == {"signal": 3, "equal": 3, "ungradable": 1}


def test_resample_ends_after_max_rounds_with_a_smaller_batch():
    sample, calls = rounds_of([ALL_WRONG], [ALL_WRONG], [RIGHT_AND_WRONG])
    options = GroupFilter(no_signal="resample", max_rounds=2)
    groups, counts = collect_groups(sample, options=options, num_groups=1)
    assert groups == []
    assert len(calls) == counts.rounds == 2


def test_a_copy_with_enough_groups_samples_along_with_the_others_and_drops_the_surplus():
    other_needs = iter([2, 1, 0])  # another copy of the model still misses groups after the first round
    sample, calls = rounds_of([RIGHT_AND_WRONG] * 2, [RIGHT_AND_WRONG])
    groups, _ = collect_groups(
        sample,
        options=GroupFilter(no_signal="resample"),
        num_groups=2,
        agree=lambda missing: max(missing, next(other_needs)),
    )
    assert calls == [(0, 2), (1, 1)]
    assert len(groups) == 2
