"""Drafts by the MTP layer change no token: the same outputs, the same distribution, in fewer steps."""

import pytest
import torch

from tests.distributed.harness import plan
from tests.distributed.harness.ranks import Results

SAMPLINGS = ("greedy", "sampled", "nucleus")
LOGPROB = 1e-5  # fp32
ALL = [("one", sampling) for sampling in SAMPLINGS] + [
    pytest.param(layout, sampling, marks=pytest.mark.slow)
    for layout, samplings in plan.SPECULATED_TWO.items()
    for sampling in samplings
]


def p_value(drawn: list[float], expected: list[float]) -> float:
    """Of Pearson's chi-square, cells with fewer than 5 expected together in one."""
    rare = [i for i, value in enumerate(expected) if value < 5]
    pairs = [(drawn[i], value) for i, value in enumerate(expected) if value >= 5]
    pairs += [(sum(drawn[i] for i in rare), sum(expected[i] for i in rare))] if rare else []
    statistic = sum((got - value) ** 2 / value for got, value in pairs)
    half = torch.tensor([(len(pairs) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


@pytest.mark.parametrize(("layout", "sampling"), ALL)
def test_outputs_are_those_without_drafts(request: pytest.FixtureRequest, layout: str, sampling: str):
    results: Results = request.getfixturevalue("one" if layout == "one" else "two")
    for rank in results.ranks(f"speculated_{layout}"):
        found = rank[sampling]
        assert found["drafted"] == found["few"] == found["plain"]
        assert found["logprob_gap"] < LOGPROB
        assert found["same_kept"]
        if sampling == "sampled":
            assert len({len(tokens) for tokens in found["plain"]}) > 1, "rows end early"


@pytest.mark.parametrize(("layout", "sampling"), ALL)
def test_drafts_do_not_depend_on_the_batch(request: pytest.FixtureRequest, layout: str, sampling: str):
    """A draft of a wrong cache would be a draft all the same, only more often wrong."""
    results: Results = request.getfixturevalue("one" if layout == "one" else "two")
    for rank in results.ranks(f"speculated_{layout}"):
        found = rank[sampling]
        assert found["accepted"] == found["accepted_few"]
        assert 0 < sum(found["accepted"]) < sum(found["drafts"]), "some are right and some wrong"
        for drafts, accepted, tokens in zip(
            found["drafts"], found["accepted"], found["plain"], strict=True
        ):  # the first token has no draft, and the last may end behind a draft that was right
            assert len(tokens) in (1 + drafts + accepted, drafts + accepted)


def test_a_draft_is_what_the_mtp_layer_predicts_in_training(one: Results):
    found = one["speculated_by_hand"]
    assert found["drafts"] > 10
    assert found["accepted"] > 0
    assert found["gap"] < LOGPROB


def test_all_outputs_have_the_frequencies_of_the_model(one: Results):
    found = one["speculated_counts"]
    assert sum(found["drawn"]) == pytest.approx(sum(found["expected"]), rel=1e-4)
    assert 0.1 < found["accepted"] < 0.9
    assert p_value(found["drawn"], found["expected"]) > 0.01
    # the test has the power to see it: drafts taken as they are would not pass
    assert p_value(found["drafted"]["drawn"], found["drafted"]["expected"]) < 1e-6


def test_a_model_or_engine_that_checks_no_drafts_is_refused(one: Results):
    no_layer, engine, beyond = one["speculated_refused"]
    assert "no MTP layer to draft with; leave it out" in no_layer
    assert "rollout.engine=modules, which checks no drafts; use megatron" in engine
    assert "what model.megatron sets" in beyond
