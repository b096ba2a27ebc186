"""Outputs dealt to replicas: each once, counts equal within one, tokens within 5 %."""

import random
from itertools import chain

import pytest
import torch

from megatron_r1.data.packing import _best_fit
from megatron_r1.rl.schedules import split_updates
from megatron_r1.stages.grpo.balance import Dealt, deal, owners_of
from megatron_r1.types import LossInputs, Nucleus, TrainSequence
from tests.stages.fake_policy import FakeReplicas, together

SEEDS = range(5)


def long_tail(seed: int, count: int) -> list[int]:
    """Log-normal, as reasoning is: median 3k, cut at 32k tokens."""
    rng = random.Random(seed)
    return [min(32768, max(64, int(rng.lognormvariate(8, 1.2)))) for _ in range(count)]


def demo(seed: int, count: int) -> list[int]:
    """A prompt of 32 and outputs of 40 tokens on average, at most 128."""
    rng = random.Random(seed)
    return [32 + min(128, 1 + int(rng.expovariate(1 / 40))) for _ in range(count)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_replicas", [2, 8])
@pytest.mark.parametrize(("draw", "count", "capacity"), [(long_tail, 512, 32768), (demo, 512, 2048)])
def test_padding_and_imbalance_stay_below_five_percent(draw, count, capacity, num_replicas, seed):
    lengths = draw(seed, count)
    for members in split_updates(count, 2, seed=seed, step=0):
        owners = owners_of([members], lengths, num_replicas=num_replicas)
        loads, packs = [], []
        for replica in range(num_replicas):
            mine = [lengths[i] for i in members if owners[i] == replica]
            bins = _best_fit(mine, capacity=capacity)
            packs.append(len(bins))
            loads.append(sum(-(-sum(mine[i] for i in each) // 8) * 8 for each in bins))
        computed = [load + 8 * (max(packs) - own) for load, own in zip(loads, packs, strict=True)]
        tokens = sum(lengths[i] for i in members)
        assert 1 - tokens / sum(computed) < 0.05
        assert max(computed) / (sum(computed) / num_replicas) - 1 < 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_every_output_is_dealt_once_and_counts_are_equal_within_one(seed):
    lengths = long_tail(seed, 101)
    updates = split_updates(101, 4, seed=seed, step=3)
    owners = owners_of(updates, lengths, num_replicas=3)
    for members in updates:
        counts = [sum(owners[i] == replica for i in members) for replica in range(3)]
        assert sum(counts) == len(members)
        assert max(counts) - min(counts) <= 1


def sequence(number: int, length: int) -> TrainSequence:
    """All tokens are its number; so are its field, its route and the one token of its nucleus."""
    return TrainSequence(
        token_ids=torch.full((length,), number),
        weights=torch.ones(length),
        loss_inputs=LossInputs(advantages=torch.full((length,), float(number))),
        routes=torch.full((length - 1, 1, 1), number),
        nucleus=Nucleus(torch.tensor([number]), torch.tensor([0, *[0] * (length - 1), 1])),
    )


def dealt(held: list[list[TrainSequence]], *, balanced: bool, inner_epochs: int = 1) -> list[Dealt]:
    def one(replicas: FakeReplicas) -> Dealt:
        return deal(
            held[replicas.index],
            replicas,  # type: ignore[arg-type]
            num_updates=3,
            inner_epochs=inner_epochs,
            seed=5,
            step=2,
            balanced=balanced,
        )

    return together(len(held), one)


@pytest.mark.parametrize("sizes", [[20, 20], [37, 0, 3], [1, 0], [0, 0]])
@pytest.mark.parametrize("inner_epochs", [1, 2])
def test_updates_have_the_same_members_wherever_they_lie(sizes, inner_epochs):
    lengths = iter(demo(1, sum(sizes)))
    numbers = iter(range(sum(sizes)))
    held = [[sequence(next(numbers), next(lengths)) for _ in range(size)] for size in sizes]

    def members(balanced: bool) -> list[list[int]]:
        found = dealt(held, balanced=balanced, inner_epochs=inner_epochs)
        per_update = zip(*([[d.sequences[i] for i in u] for u in d.updates] for d in found), strict=True)
        return [sorted(int(s.token_ids[0]) for part in parts for s in part) for parts in per_update]

    assert members(True) == members(False)
    assert sorted(chain(*members(True))) == sorted([*range(sum(sizes))] * inner_epochs)


def test_what_moves_arrives_whole_and_in_order():
    held = [[sequence(i, 4 + i) for i in range(8)], [sequence(i, 4) for i in range(8, 10)]]
    found = dealt(held, balanced=True)
    assert [len(d.sequences) for d in found] != [8, 2]  # some moved
    for each in found:
        numbers = [int(s.token_ids[0]) for s in each.sequences]
        assert numbers == sorted(numbers)
        for s, number in zip(each.sequences, numbers, strict=True):
            own = sequence(number, len(s.token_ids))
            assert len(s.token_ids) == (4 + number if number < 8 else 4)
            assert s.nucleus is not None
            assert own.nucleus is not None
            assert s.nucleus.ids.tolist() == own.nucleus.ids.tolist()
            assert s.nucleus.offsets.tolist() == own.nucleus.offsets.tolist()
            assert s.routes is not None
            assert s.routes.unique().tolist() == [number]
            assert torch.equal(s.loss_inputs.required("advantages"), own.loss_inputs.required("advantages"))


def test_without_balance_each_replica_keeps_what_it_sampled():
    held = [[sequence(i, 40) for i in range(6)], [sequence(6, 3)]]
    found = dealt(held, balanced=False)
    assert [d.sequences for d in found] == held
