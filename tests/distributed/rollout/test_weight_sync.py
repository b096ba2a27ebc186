"""Sampling in another layout than training: the same weights, tokens and log-probs, or an error."""

from typing import Any

import pytest
import torch

from megatron_r1.backend.rollout.weight_sync import checksum
from tests.distributed.harness import refit_plan
from tests.distributed.harness.ranks import Results

LOGPROB = 1e-5
MOVED = [name for name in refit_plan.TWO if name != "same_pp2"]


def found_in(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    results: Results = request.getfixturevalue("four" if name in refit_plan.FOUR else "two")
    return results[f"refit_{name}"]


def assert_same(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    for row, other in zip(rows, others, strict=True):
        assert row["tokens"] == other["tokens"]
        assert row["rollout"] == pytest.approx(other["rollout"], rel=0, abs=LOGPROB)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MOVED, "padded_vocabulary", *refit_plan.FOUR])
def test_the_rollouts_layout_samples_what_the_training_layout_would(
    request: pytest.FixtureRequest, name: str
) -> None:
    found = found_in(request, name)
    assert_same(found["second"], found["in_training"])
    assert found["alone"][0]["tokens"] == found["second"][0]["tokens"]
    assert [row["tokens"] for row in found["first"]] != [row["tokens"] for row in found["second"]]
    for row in [*found["first"], *found["second"]]:
        assert row["rollout"] == pytest.approx(row["training"], rel=0, abs=LOGPROB)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MOVED, *refit_plan.FOUR])
def test_one_refit_an_update_and_its_bytes(request: pytest.FixtureRequest, name: str) -> None:
    count, num_bytes, seconds = found_in(request, name)["refits"]
    assert count == 2, "before the first rollout and after the update; none for the same weights"
    assert seconds > 0
    copies = name.removeprefix("tied_").startswith("dp2_to")
    assert (num_bytes == 0) == copies, "what a rank has already is cut where it lies"


@pytest.mark.slow
def test_nothing_moves_where_the_layouts_agree(two: Results) -> None:
    found = two["refit_same_pp2"]
    assert found["refits"] == [0, 0, 0.0]
    assert found["weights"] == [], "and there is no second model"
    assert found["second"] == found["in_training"]


@pytest.mark.slow
def test_bytes_are_those_of_the_weights_that_a_rank_lacks(two: Results) -> None:
    """EP2 to two whole copies: each rank lacks half of the experts, in 3 layers and in MTP's, two refits."""
    experts = 4 * 8 * 3 * 64 * 32  # layers x experts x (gate, up, down)
    assert two["refit_ep2_to_dp2"]["refits"][1] == 2 * experts * 4


@pytest.mark.slow
def test_router_biases_and_mtp_are_refitted(two: Results) -> None:
    weights = two["refit_pp2_to_dp2"]["weights"]
    assert any(name.endswith("router.expert_bias") for name in weights)
    assert any(name.startswith("mtp.") and ".experts.7." in name for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MOVED, *refit_plan.FOUR])
def test_two_elements_that_change_places_are_noticed_by_name(
    request: pytest.FixtureRequest, name: str
) -> None:
    message = found_in(request, name)["message"]
    assert message.startswith("refit: decoder.layers.0.mlp.linear_fc2.weight")


@pytest.mark.slow
def test_a_padded_vocabulary_is_never_sampled_through_the_modules_either(two: Results) -> None:
    found = two["refit_padded_vocabulary"]
    assert_same(found["through_modules"], found["in_training"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checksum_is_the_same_however_the_weight_is_cut(dtype: torch.dtype) -> None:
    whole = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).to(dtype)

    def part(rows: range, columns: range, limit: int = 6) -> int:
        data = whole[rows.start : rows.stop, columns.start : columns.stop]
        return checksum(data, rows=rows, first_column=columns.start, width=10, limit=limit)

    parts = [part(r, c) for r in (range(2), range(2, 6)) for c in (range(4), range(4, 10))]
    assert sum(parts) % 2**64 == part(range(6), range(10))
    assert part(range(6), range(10), limit=5) == part(range(5), range(10)), "padding doesn't count"


def test_a_checksum_sees_two_elements_change_places() -> None:
    weight = torch.arange(12.0).view(3, 4)
    exchanged = weight.clone()
    exchanged[0, 0], exchanged[2, 3] = weight[2, 3], weight[0, 0]
    sums = [checksum(w, rows=range(3), first_column=0, width=4, limit=3) for w in (weight, exchanged)]
    assert sums[0] != sums[1]
