"""Offload: storages are emptied and filled in place, and training can't tell."""

import pytest
import torch

from megatron_r1.backend.train.cpu_offload import HostCopy
from tests.distributed.harness import offload_plan
from tests.distributed.harness.ranks import Results

ONE = [s.name for s in offload_plan.ONE_RANK if s.arguments["move"]]
TWO = [s.name for s in offload_plan.TWO_RANKS if s.arguments["move"]]


def test_storages_are_emptied_once_and_filled_with_the_same_bits_under_all_views():
    flat, other = torch.randn(6), torch.randn(3).bfloat16()
    views, expected = [flat[:2], flat[2:].view(2, 2)], (flat.clone(), other.clone())
    host = HostCopy(lambda: [*views, other])
    host.offload()
    assert host.offloaded_bytes == 6 * 4 + 3 * 2
    assert flat.untyped_storage().nbytes() == other.untyped_storage().nbytes() == 0
    host.reload()
    host.wait()
    assert torch.equal(flat, expected[0])
    assert torch.equal(other, expected[1])
    assert torch.equal(views[1].flatten(), expected[0][2:])
    assert host.moved_bytes == 2 * 30
    assert not host.is_offloaded


def test_what_shares_memory_with_the_weights_stays():
    weights, moment = torch.ones(8), torch.ones(4)
    host = HostCopy(lambda: [weights[:3], moment], stay=[weights])
    host.offload()
    assert host.offloaded_bytes == 16
    assert weights.sum() == 8


def test_within_here_it_is_back_and_unchanged_contents_are_not_copied_again():
    kept = torch.arange(4.0)
    host = HostCopy(lambda: [kept])
    host.offload()
    with host.on_device():
        assert kept.tolist() == [0, 1, 2, 3]
    assert host.is_offloaded
    assert host.moved_bytes == 2 * 16  # there and back; the second time it is only freed


def test_nothing_is_freed_where_the_host_has_no_room(monkeypatch: pytest.MonkeyPatch):
    kept = torch.arange(4.0)
    host = HostCopy(lambda: [kept])

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", full)
        with pytest.raises(RuntimeError, match="no memory"):
            host.offload()
    assert not host.is_offloaded
    assert kept.tolist() == [0, 1, 2, 3]


def _check(results: Results, name: str) -> None:
    stayed = results.ranks(name.replace("moved", "stayed"))
    for still, moved in zip(stayed, results.ranks(name), strict=True):
        assert still.pop("freed") == [[0, 0, 0]] * 3  # the CPU's default: nothing moves
        first, later = moved["freed"][0], moved.pop("freed")[1:]
        assert min(first[1:]) > 0  # Adam has no moments before its first step
        assert min(min(sizes) for sizes in later) > 0
        assert moved == still  # to the bit
        assert moved["resumed"] == moved["loss"][2:4]
        assert moved["resumed_reference"] == moved["reference"][0]


@pytest.mark.parametrize("name", ONE)
def test_training_through_host_memory_is_the_same_on_one_rank(one: Results, name: str):
    _check(one, name)


@pytest.mark.parametrize("name", TWO)
def test_training_through_host_memory_is_the_same_on_two_ranks(two: Results, name: str):
    _check(two, name)


def test_a_reward_model_scores_the_same_from_host_memory_and_frees_its_weights_between(one: Results):
    (found,) = one.ranks("rested_one")
    assert found["after"] == [found["before"]] * 2  # to the bit
    assert len(set(found["before"])) > 1
    assert found["bytes"] > 0
    assert found["left"] == [0, 0]
    assert found["away"] == [found["bytes"]] * 2
    assert found["moved"] == 3 * found["bytes"]  # to the host once, back for each scoring


def test_a_judge_says_the_same_from_host_memory(one: Results):
    (found,) = one.ranks("rested_judge_one")
    still, moved = found["said"]
    assert moved == still  # to the bit
    assert min(found["left"][0]) > 0
    assert found["left"][1] == [0, 0]  # after sampling and after its pass
