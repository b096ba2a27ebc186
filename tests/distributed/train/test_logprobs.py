"""Log-probs, entropy and the MTP loss equal what is written by hand; packing changes nothing."""

import pytest

from tests.distributed.harness import plan
from tests.distributed.harness.ranks import Results

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("temperature", plan.TEMPERATURES)
@pytest.mark.parametrize("layout", ["one", "tp2"])
def test_logprobs_and_entropy_equal_log_softmax(
    one: Results, two: Results, layout: str, temperature: float
) -> None:
    results = one if layout == "one" else two
    for found in results.ranks(f"numbers_{temperature}_{layout}"):
        assert found["logprobs"] < 5e-6
        assert found["entropy"] < 5e-6
        assert found["gradient"] < 5e-5  # of a sum with weights up to 49


@pytest.mark.parametrize("family", ["v3", "qwen2"])
@pytest.mark.parametrize("layout", ["one", "tp2"])
def test_the_head_in_chunks_equals_the_one_in_one_piece(
    one: Results, two: Results, layout: str, family: str
) -> None:
    results = one if layout == "one" else two
    for found in results.ranks(f"chunks_{family}_{layout}"):
        assert max(found.values()) < 1e-6, found


@pytest.mark.parametrize("family", ["v3", "qwen2"])
@pytest.mark.parametrize("layout", ["one", "tp2"])
def test_tokens_left_out_of_the_head_change_nothing_for_the_others(
    one: Results, two: Results, layout: str, family: str
) -> None:
    results = one if layout == "one" else two
    for found in results.ranks(f"counted_{family}_{layout}"):
        assert max(found.values()) < 1e-6, found


@pytest.mark.parametrize("family", plan.FAMILIES)
def test_a_pack_gives_the_logprobs_of_single_sequences(one: Results, family: str) -> None:
    assert one[f"packed_{family}_one"]["difference"] < 1e-5


@pytest.mark.parametrize(("family", "layout"), plan.PACKED_TWO)
def test_packed_logprobs_on_two_ranks_equal_those_on_one(
    one: Results, two: Results, family: str, layout: str
) -> None:
    expected = one[f"packed_{family}_one"]["values"]
    for found in two.ranks(f"packed_{family}_{layout}"):
        assert found["difference"] < 1e-5
        for values, wanted in zip(found["values"], expected, strict=True):
            assert values == pytest.approx(wanted, rel=0, abs=1e-5)


def test_mtp_loss_equals_the_one_written_by_hand(one: Results) -> None:
    """Two depths, two packed sequences, uneven weights: each depth predicts one token further."""
    assert one["mtp_by_hand"]["ours"] == pytest.approx(one["mtp_by_hand"]["by_hand"], rel=1e-6)
