"""Experts on several ranks: two exchanges a layer sample what the dispatcher of training samples."""

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_r1.backend.parallel import process_groups
from megatron_r1.backend.rollout.decoder.expert_parallel import Exchange
from megatron_r1.config.layout import Layout
from megatron_r1.errors import ConfigError
from tests.distributed.harness.ranks import Results
from tests.distributed.scenarios.exchange import MOE_LAYERS

TOLERANCE = 1e-5  # of a log-prob in fp32
BY_ALL_WAYS = ("two ep2", "two tp2_ep2", "four ep4", "four tp2_ep4")


@pytest.fixture
def ranks(request: pytest.FixtureRequest):
    def of(name: str) -> list:
        size, layout = name.split()
        results: Results = request.getfixturevalue(size)
        return results.ranks(f"exchange_{layout}")

    return of


def gap(found: dict, other: dict) -> float:
    """Of log-probs; the tokens are the same."""
    pairs = list(zip(found["outputs"], other["outputs"], strict=True))
    assert all(tokens == others for (tokens, _), (others, _) in pairs)
    return max(abs(a - b) for (_, of), (_, to) in pairs for a, b in zip(of, to, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("layout", BY_ALL_WAYS)
def test_all_ways_sample_what_megatrons_modules_sample(ranks, layout: str):
    for found in ranks(layout):
        gaps = {name: gap(found[name], found["modules"]) for name in found if name != "bits"}
        assert "exchanged" in gaps
        assert max(gaps.values()) < TOLERANCE


@pytest.mark.slow
def test_experts_cut_over_tensor_ranks_too_sample_the_same(ranks):
    """That Megatron's dispatcher can't do on gloo, which gathers no uneven parts."""
    for cut, whole in zip(ranks("four tp2_etp2_ep2"), ranks("four tp2_ep4"), strict=True):
        assert gap(cut["exchanged"], whole["modules"]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["two ep2", "four ep4", "four tp2_ep4"])
def test_ranks_meet_twice_a_layer_and_once_a_step(ranks, layout: str):
    for found in ranks(layout):
        way = found["exchanged"]
        assert way["feeds"] > 5
        assert way["all_to_all_single"] == 2 * MOE_LAYERS * way["feeds"] + way["agreements"]
        assert way["agreements"] <= way["feeds"] + 2  # each feed's size, and the end


@pytest.mark.slow
def test_ranks_with_the_same_tokens_only_add_up(ranks):
    for found in ranks("two tp2_ep2"):
        assert found["exchanged"]["all_to_all_single"] == 0


@pytest.mark.slow
def test_large_prompts_take_the_dispatcher_and_tokens_the_exchange(ranks):
    ways = ("exchanged", "prompts dispatched", "dispatched")  # each meets more often than the one before
    for found in ranks("four ep4"):
        counts = [found[way]["all_to_all_single"] for way in ways]
        assert counts == sorted(set(counts))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["two ep2", "four ep4", "four tp2_ep4"])
def test_bf16_tokens_and_their_routes_arrive_to_the_bit(ranks, layout: str):
    assert all(found["bits"] for found in ranks(layout))


def exchange_of(layout: Layout) -> Exchange:
    """Of the first rank, the others being torch's fake ones."""
    dist.init_process_group("fake", rank=0, world_size=layout.ranks, store=FakeStore())
    try:
        process_groups.build_groups(layout, gloo=False)
        return Exchange()
    finally:
        process_groups.stop()


@pytest.mark.parametrize(
    ("degrees", "size", "alike"),
    [
        ({"tensor": 2, "expert": 6}, 6, 2),
        ({"tensor": 2, "context": 3, "expert": 2}, 2, 2),
        ({"tensor": 2, "expert": 2, "expert_tensor": 3}, 6, 2),
        ({"tensor": 6}, 1, 1),
    ],
)
def test_ranks_that_share_experts_and_those_with_the_same_tokens(degrees: dict, size: int, alike: int):
    exchange = exchange_of(Layout(ranks=6, **degrees))
    assert (exchange.size, exchange.alike) == (size, alike)


def test_replicas_that_share_only_some_experts_are_refused_in_words():
    with pytest.raises(ConfigError, match=r"2 ranks share experts .* and 3 a sequence .* a multiple"):
        exchange_of(Layout(ranks=6, tensor=3, expert=2))
