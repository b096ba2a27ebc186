"""A run that goes on from a checkpoint, in its layout or another, is the run that was never interrupted."""

import pytest

from tests.distributed.harness import plan
from tests.distributed.harness.ranks import Results
from tests.distributed.train.test_parity import LOSS

pytestmark = pytest.mark.slow

RESUMED = [(source, layout) for source, layouts in plan.RESUMED_TWO.items() for layout in layouts]
SAME_LAYOUT = [source for source, layout in RESUMED if source == layout]


def uninterrupted(one: Results, two: Results, source: str) -> dict:
    return (one if source == "one" else two)[f"v3_{source}"]


@pytest.mark.parametrize(("source", "layout"), RESUMED)
def test_resumed_in_another_layout_equals_uninterrupted(
    one: Results, two: Results, source: str, layout: str
) -> None:
    whole, resumed = uninterrupted(one, two, source), two[f"resumed_{source}_{layout}"]
    assert resumed["loss"] == pytest.approx(whole["loss"][3:], rel=0, abs=LOSS)
    assert resumed["grad_norm"] == pytest.approx(whole["grad_norm"][3:], rel=1e-5)
    assert resumed["logprobs"] == pytest.approx(whole["logprobs"], rel=0, abs=1e-5)


@pytest.mark.parametrize(("family", "layout"), plan.RESUMED_FAMILIES.items())
def test_every_family_resumes_on_one_rank_and_on_two(
    one: Results, two: Results, family: str, layout: str
) -> None:
    whole, alone, resumed = (
        one[f"{family}_one"],
        one[f"resumed_{family}_one"],
        two[f"resumed_{family}_{layout}"],
    )
    assert (alone["loss"], alone["logprobs"]) == (whole["loss"][3:], whole["logprobs"])
    assert resumed["loss"] == pytest.approx(whole["loss"][3:], rel=0, abs=LOSS)
    assert resumed["grad_norm"] == pytest.approx(whole["grad_norm"][3:], rel=1e-5)
    assert resumed["logprobs"] == pytest.approx(whole["logprobs"], rel=0, abs=1e-5)


@pytest.mark.parametrize("layout", SAME_LAYOUT)
def test_resumed_in_the_same_layout_equals_uninterrupted_bit_for_bit(two: Results, layout: str) -> None:
    whole, resumed = two[f"v3_{layout}"], two[f"resumed_{layout}_{layout}"]
    for name in ("loss", "grad_norm", "mtp_loss"):
        assert resumed[name] == whole[name][3:]
    assert resumed["logprobs"] == whole["logprobs"]


def test_resumed_on_one_rank_equals_uninterrupted_bit_for_bit(one: Results) -> None:
    assert one["resumed_one_one"]["loss"] == one["v3_one"]["loss"][3:]
    assert one["resumed_one_one"]["logprobs"] == one["v3_one"]["logprobs"]


def test_bf16_resumes_bit_for_bit_with_its_fp32_masters(one: Results) -> None:
    assert one["resumed_bf16"]["loss"] == one["bf16_v3_one"]["loss"][3:]
    assert one["resumed_bf16"]["logprobs"] == one["bf16_v3_one"]["logprobs"]


def test_weights_loaded_under_an_optimizer_reach_its_fp32_masters(one: Results) -> None:
    assert one["optimizer_first"]["loss"] == one["bf16_v3_one"]["loss"][:2]


@pytest.mark.parametrize(("source", "layout"), RESUMED)
def test_the_reference_of_the_start_comes_back_in_every_layout(
    one: Results, two: Results, source: str, layout: str
) -> None:
    resumed = two[f"resumed_{source}_{layout}"]
    assert resumed["reference_logprobs"] == pytest.approx(one["reference_of_start"], rel=0, abs=1e-5)
    assert resumed["reference_logprobs"] != pytest.approx(resumed["logprobs"], rel=0, abs=1e-2)


@pytest.mark.parametrize(("source", "layout"), RESUMED)
def test_state_and_version_come_back_and_adam_stays_fused(two: Results, source: str, layout: str) -> None:
    for rank in two.ranks(f"resumed_{source}_{layout}"):
        assert rank["state"] == {"step": 3, "cursor": [1, 2]}
        assert rank["version"] == 5
        assert rank["fused"]
