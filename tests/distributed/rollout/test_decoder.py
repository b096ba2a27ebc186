"""The lean decoder samples what Megatron's modules sample, and agrees with the training forward."""

from pathlib import Path

import pytest

from megatron_r1.backend.rollout.decoder.cuda_graphs import rounded_columns, rounded_rows
from tests.distributed.harness import plan
from tests.distributed.harness.ranks import Results, Scenario, run_scenarios

FAMILIES = ("v3", "v3_plain", "v3_one_group", "qwen2", "qwen3", "llama", "qwen3_moe", "glm4_moe")
TOLERANCE = 3e-5  # of a log-prob in fp32; weights and norms are far larger here than in training


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder: Path = tmp_path_factory.mktemp("decode")
    scenarios = [Scenario(f, "decode.compare", {}, {"family": f}) for f in FAMILIES]
    scenarios.append(Scenario("grouped", "decode.grouped"))
    scenarios.append(Scenario("clamped", "decode.chosen", {}, {"family": "clamped"}))
    return run_scenarios(1, scenarios, folder, shared=folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_lean_and_modules_sample_the_same_tokens(alone: Results, family: str):
    found = alone[family]
    assert found["is_lean"]
    assert found["lean"] == found["modules"]
    assert found["to_modules"] < TOLERANCE
    lengths = {len(output) for output in found["lean"]}
    assert len(lengths) > 1, "rows that finish early are part of the test"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("decoder", ["LeanDecoder", "ModuleDecoder", "GraphedDecoder"])
def test_three_places_sample_what_twelve_do(alone: Results, family: str, decoder: str):
    assert alone[family]["few"][decoder] == alone[family]["lean"]


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_of_rounded_size_sample_the_same_tokens(alone: Results, family: str):
    assert alone[family]["graphed"] == alone[family]["lean"]
    assert alone[family]["graphed_to_lean"] < TOLERANCE


def test_sizes_of_steps_are_few_and_never_too_small():
    assert [rounded_rows(n, 300) for n in (1, 8, 9, 200, 257, 300)] == [8, 8, 16, 256, 300, 300]
    assert [rounded_columns(n, 4000) for n in (1, 128, 129, 1000, 1025, 2049, 3900)] == [
        128, 128, 256, 1024, 1280, 2560, 4000,
    ]  # fmt: skip
    ends = range(1, 32769)
    assert all(end <= rounded_columns(end, 32768) <= max(end + 127, 1.25 * end) for end in ends)
    assert len({rounded_columns(end, 32768) for end in ends}) < 40


@pytest.mark.parametrize("family", FAMILIES)
def test_lean_agrees_with_the_training_forward(alone: Results, family: str):
    assert alone[family]["to_training"] < TOLERANCE


def test_a_model_that_the_lean_decoder_does_not_know_goes_through_the_modules(alone: Results):
    found = alone["clamped"]
    assert not found["is_lean"]
    assert found["to_training"] < TOLERANCE
    assert found["lean_to_training"] > 100 * TOLERANCE, "the lean decoder would have been wrong"


@pytest.mark.parametrize("when", ["new", "training"])
def test_one_product_for_all_experts_is_one_for_each(alone: Results, when: str):
    found = alone["grouped"][when]
    assert found["stacked"]
    assert found["same_tokens"]
    assert found["gap"] < TOLERANCE
    assert alone["grouped"]["new"]["tokens"] != alone["grouped"]["training"]["tokens"], "an update is seen"


@pytest.mark.slow
@pytest.mark.parametrize(("family", "layout"), plan.DECODED_TWO)
def test_lean_and_modules_agree_on_two_ranks(two: Results, family: str, layout: str):
    for found in two.ranks(f"decoded_{family}_{layout}"):
        assert found["is_lean"]
        assert found["lean"] == found["modules"]
        assert set(map(str, found["few"].values())) == {str(found["lean"])}
        assert found["to_training"] < TOLERANCE
