"""What the rollout samples: log-probs of the training forward, the same tokens in every layout."""

import pytest

from tests.distributed.harness import plan
from tests.distributed.harness.ranks import Results

pytestmark = pytest.mark.slow

LOGPROB = 1e-5
SAMPLINGS = ("greedy", "sampled", "nucleus", "few", "alone")


def assert_rollout_is_training(rows: list[dict]) -> None:
    for row in rows:
        assert row["rollout"] == pytest.approx(row["training"], rel=0, abs=LOGPROB)


@pytest.mark.parametrize("sampling", ["greedy", "sampled", "alone"])
@pytest.mark.parametrize("family", plan.FAMILIES)
def test_rollout_logprobs_are_those_of_the_training_forward(one: Results, family: str, sampling: str) -> None:
    assert_rollout_is_training(one[f"sampled_{family}_one"][sampling])


@pytest.mark.parametrize("sampling", ["greedy", "sampled", "alone"])
@pytest.mark.parametrize(("family", "layout"), plan.SAMPLED_TWO)
def test_on_two_ranks_too(two: Results, family: str, layout: str, sampling: str) -> None:
    assert_rollout_is_training(two[f"sampled_{family}_{layout}"][sampling])


def test_truncated_sampling_reports_the_distribution_that_was_sampled_from(one: Results) -> None:
    for row in one["sampled_v3_one"]["nucleus"]:
        assert all(a >= b - LOGPROB for a, b in zip(row["rollout"], row["training"], strict=True))


def test_outputs_end_at_different_lengths(one: Results) -> None:
    """Otherwise nothing here would notice a rank that stops before the others."""
    assert len({len(row["tokens"]) for row in one["sampled_v3_one"]["sampled"]}) > 2


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("family", "layout"), plan.SAMPLED_TWO)
def test_the_same_tokens_are_sampled_in_every_layout(
    one: Results, two: Results, family: str, layout: str, sampling: str
) -> None:
    def tokens(results: Results, name: str) -> list[list[int]]:
        return [row["tokens"] for row in results[f"sampled_{family}_{name}"][sampling]]

    assert tokens(two, layout) == tokens(one, "one")


@pytest.mark.parametrize("family", plan.FAMILIES)
def test_few_at_a_time_are_the_same_outputs(one: Results, family: str) -> None:
    found = one[f"sampled_{family}_one"]
    assert [row["tokens"] for row in found["few"]] == [row["tokens"] for row in found["sampled"]]
    assert_rollout_is_training(found["few"])


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *((f"sampled_{family}", "one") for family in plan.FAMILIES),
        *((f"sampled_{family}", layout) for family, layout in plan.SAMPLED_TWO),
        *((f"dynamic_{family}", "one") for family in plan.DYNAMIC),
        *((f"dynamic_{family}", layout) for family, layout in plan.DYNAMIC_TWO),
    ],
)
def test_each_of_several_ids_ends_an_output(one: Results, two: Results, name: str, layout: str) -> None:
    found = (one if layout == "one" else two)[f"{name}_{layout}"]
    ends = found["eos_ids"][0]["tokens"]
    assert len(ends) > 1
    for row, whole in zip(found["ends"], found["sampled"], strict=True):
        last = next((i for i, token in enumerate(whole["tokens"]) if token in ends), len(whole["tokens"]))
        assert row["tokens"] == whole["tokens"][: last + 1]
    assert any(
        len(r["tokens"]) < len(w["tokens"]) for r, w in zip(found["ends"], found["sampled"], strict=True)
    )


@pytest.mark.parametrize(
    ("family", "layout"), [*((family, "one") for family in plan.FAMILIES), *plan.CARRIED_TWO]
)
def test_outputs_that_go_on_in_a_second_call_are_those_of_one(
    one: Results, two: Results, family: str, layout: str
) -> None:
    found = (one if layout == "one" else two)[f"sampled_{family}_{layout}"]
    carried = found["carried"]
    assert [row["tokens"] for row in carried] == [row["tokens"] for row in found["sampled"]]
    assert_rollout_is_training(carried)
    shortest = min(len(row["tokens"]) for row in carried)
    assert all(row["begun"] == shortest for row in carried), "the first call ends with the output that is due"
    assert any(row["begun"] < len(row["tokens"]) for row in carried)


@pytest.mark.parametrize(
    ("family", "layout"), [*((family, "one") for family in plan.DYNAMIC), *plan.DYNAMIC_TWO]
)
def test_the_dynamic_engine_samples_the_same_tokens(
    one: Results, two: Results, family: str, layout: str
) -> None:
    found = (one if layout == "one" else two)[f"dynamic_{family}_{layout}"]
    for sampling in SAMPLINGS:
        assert [row["tokens"] for row in found[sampling]] == [
            row["tokens"] for row in one[f"sampled_{family}_one"][sampling]
        ]
        if sampling != "nucleus":
            assert_rollout_is_training(found[sampling])


def test_an_exception_inside_generate_leaves_the_model_ready_to_train(one: Results, two: Results) -> None:
    for found in (*one.ranks("exception_inside_one"), *two.ranks("exception_inside_tp2")):
        assert found["raised"]
        assert found["switched_inside"]
        assert found["some_are_on"]
        assert found["restored"]
