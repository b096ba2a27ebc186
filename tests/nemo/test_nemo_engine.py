"""Three engines, the same weights: the same tokens, and the log-probs of the training forward."""

import pytest

from tests.distributed.harness.ranks import Results
from tests.nemo.conftest import ENGINES, FAMILIES, TWO

LOGPROB = 1e-5
SAMPLINGS = ("greedy", "sampled", "nucleus", "few", "alone")


def assert_logprobs_are_those_of_training(rows: list[dict]) -> None:
    for row in rows:
        assert row["rollout"] == pytest.approx(row["training"], rel=0, abs=LOGPROB)


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert [row["tokens"] for row in found] == [row["tokens"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row["rollout"] == pytest.approx(other["rollout"], rel=0, abs=LOGPROB)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engines_sample_the_same(one: Results, family: str, engine: str, sampling: str) -> None:
    found, expected = (one[f"{name}_{family}_one"][sampling] for name in (engine, ENGINES[0]))
    assert_same(found, expected)
    if sampling != "nucleus":  # its log-probs are of what is left in the nucleus
        assert_logprobs_are_those_of_training(found)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("family", "layout"), TWO)
def test_on_two_ranks_too(one: Results, two: Results, family: str, layout: str, sampling: str) -> None:
    found = two[f"nemo_{family}_{layout}"][sampling]
    assert_same(found, one[f"megatron_{family}_one"][sampling])
    if sampling != "nucleus":
        assert_logprobs_are_those_of_training(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_compared_is_not_one_output_again_and_again(one: Results, family: str) -> None:
    found = one[f"nemo_{family}_one"]
    assert len({tuple(row["tokens"]) for row in found["sampled"]}) > 4
    assert [r["tokens"] for r in found["sampled"]] != [r["tokens"] for r in found["greedy"]]


def test_nemo_reads_the_weights_that_train_and_changes_nothing_in_training(one: Results) -> None:
    nemo, ours = one["updates_nemo"], one["updates_megatron"]
    assert (nemo["calls"], ours["calls"]) == (3, 0)
    assert nemo["losses"] == ours["losses"]
    for found, expected in zip(nemo["outputs"], ours["outputs"], strict=True):
        assert_same(found, expected)
        assert_logprobs_are_those_of_training(found)
    assert nemo["outputs"][0] != nemo["outputs"][2]


def test_an_exception_inside_leaves_the_model_ready_to_train(one: Results) -> None:
    (found,) = one.ranks("exception_inside")
    assert found["raised"]
    assert found["switched_inside"]
    assert found["some_are_on"]
    assert found["restored"]
