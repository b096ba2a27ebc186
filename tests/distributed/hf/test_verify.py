"""`verify` sees every trap of the mapping, and nothing where there is none."""

import pytest

from tests.distributed.harness import hf_plan
from tests.distributed.scenarios.hf_traps import TRAPS
from tests.distributed.scenarios.hf_verified_files import RIGHT as FILES

RIGHT = [name for name in TRAPS if name.startswith("none")]
WRONG = [name for name in TRAPS if name not in RIGHT]


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_conversion_agrees_everywhere(hf_one, name):
    found = hf_one["traps"][name]
    assert found["first"] is None
    assert found["agreement"] == 1.0
    assert "all 4 agree" in found["text"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_trap_is_reported_with_the_first_layer_that_differs(hf_one, name):
    found = hf_one["traps"][name]
    assert found["relative"] > 0.02  # the tolerance is 0.001
    assert found["first"] in ("layer 0", "layer 1", "layer 2")
    assert f"{found['first']} is the first that differs" in found["text"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", hf_plan.TWO)
def test_our_side_may_have_any_layout(hf_two, layout):
    found = hf_two[f"verified_{layout}"]
    assert found["relative"] < 1e-4
    assert found["places"] == 6  # the embedding, four layers and the logits, from all pipeline stages
    assert "all 4 agree" in found["text"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_what_an_import_rounds_and_what_transformers_alone_cannot_read_is_no_difference(hf_one, name):
    assert hf_one["verified_files"][name] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scales_lost", "scales_by_one_percent"])
def test_wrong_scales_of_blocks_are_a_difference(hf_one, name):
    assert hf_one["verified_files"][name] == "layer 0"


@pytest.mark.slow
def test_what_transformers_stumbles_over_is_said_in_words(hf_one):
    text = hf_one["verified_files"]["refused"]
    assert "there is nothing to compare with" in text
    assert "attention_dropout" in text


@pytest.mark.slow
def test_after_training_an_fp8_export_says_of_its_scales_what_they_are(hf_one):
    powers, plain = (hf_one["verified_files"]["trained"][name] for name in ("ue8m0", "None"))
    assert powers["says"]["scale_fmt"] == "ue8m0"
    assert powers["powers"]
    assert "scale_fmt" not in plain["says"]
    assert not plain["powers"]
    assert powers["count"] == plain["count"] > 30
