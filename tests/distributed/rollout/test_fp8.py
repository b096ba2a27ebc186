"""Rollouts in FP8 are near the training forward, not equal to it, and corrected by importance weights."""

from typing import Any

import pytest

from tests.distributed.harness import fp8_plan
from tests.distributed.harness.ranks import Results

# mean gap of a log-prob: FP8 moves it. Random weights are the worst case, since nothing has taught them to
# tell tokens apart, nor the router experts; a trained model's is a fifth (docs/fp8_rollouts.md)
LEAST, MOST = 1e-3, 0.06
STORED = 1e-5  # fp32 rollouts of the weights as they are stored
ALL = [("one", name) for name in fp8_plan.SAMPLED] + [("two", name) for name in fp8_plan.TWO]


def mean_gap(rows: list[dict[str, Any]]) -> float:
    gaps = [abs(a - b) for row in rows for a, b in zip(row["rollout"], row["training"], strict=True)]
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize(("ranks", "name"), ALL)
def test_fp8_is_near_the_training_forward(request: pytest.FixtureRequest, ranks: str, name: str):
    found = request.getfixturevalue(ranks)[f"fp8_{name}"]
    assert LEAST < mean_gap(found["new"]) < MOST


@pytest.mark.parametrize("name", fp8_plan.SAMPLED)
def test_every_rollout_rounds_anew_and_only_where_it_is_asked(one: Results, name: str):
    found = one[f"fp8_{name}"]
    assert LEAST < mean_gap(found["updated"]) < MOST, "an update is seen: the old weights would be far off"
    assert mean_gap(found["stored"]) < STORED, "and without it, all is as it was"
    tokens = {when: [row["tokens"] for row in rows] for when, rows in found.items()}
    assert tokens["new"] != tokens["stored"]
    assert tokens["new"] != tokens["updated"]


@pytest.mark.parametrize("name", fp8_plan.SAMPLED)
def test_three_at_a_time_are_the_same_outputs(one: Results, name: str):
    """Every token has its own scale, so that it doesn't matter what runs beside it."""
    found = one[f"fp8_{name}"]
    assert [row["tokens"] for row in found["few"]] == [row["tokens"] for row in found["new"]]


def test_tensor_ranks_round_finer_than_one_and_stay_as_near(one: Results, two: Results):
    """Each has scales of its own columns: the numbers differ, by no more than FP8 differs from training."""
    alone, cut = one["fp8_qwen2"]["new"], two["fp8_tp2"]["new"]
    gaps = []
    for a, b in zip(alone, cut, strict=True):
        pairs = list(zip(a["tokens"], b["tokens"], a["rollout"], b["rollout"], strict=False))
        alike = next((i for i, (ours, theirs, *_) in enumerate(pairs) if ours != theirs), len(pairs))
        gaps += [abs(x - y) for *_, x, y in pairs[:alike]]
    assert len(gaps) > 20
    assert 1e-5 < sum(gaps) / len(gaps) < MOST


@pytest.mark.parametrize("name", ["ep2", "ep2_to_dp2"])
def test_where_no_matrix_is_cut_all_samples_are_those_of_one_rank(one: Results, two: Results, name: str):
    found, alone = two[f"fp8_{name}"], one["fp8_v3"]
    assert [row["tokens"] for row in found["new"]] == [row["tokens"] for row in alone["new"]]


def test_long_prompts_that_take_the_dispatcher_are_in_fp8_too(two: Results):
    found = two["fp8_ep2"]
    assert [row["tokens"] for row in found["dispatched"]] == [row["tokens"] for row in found["new"]]
    assert LEAST < mean_gap(found["dispatched"]) < MOST


def test_drafts_change_no_token(one: Results):
    found = one["fp8_drafted"]
    assert found["drafted"] == found["plain"]
    assert found["accepted"] > 0
    assert found["gap"] < MOST, "the rounding of a sum can move a number to FP8's next, an eighth away"


def test_exactly_the_named_weights_are_rounded(one: Results):
    found = one["fp8_drafted"]
    assert found["by_lean"] == found["named_of_model"]
    assert found["by_drafting"] == found["named"]
    # h 64, 4 heads of 16 + 16, latents 32: rows x (columns + 4 bytes of scale), by hand
    attention = 32 * 68 + 128 * 36 + 32 * 68 + 64 * 68
    dense, expert = 256 * 68 + 64 * 132, 64 * 68 + 64 * 36
    assert found["bytes"] == 4 * attention + dense + 3 * (8 + 1) * expert


def test_the_update_is_corrected_and_says_by_how_much(one: Results):
    found = one["fp8_corrected"]
    assert found["ratio"] == pytest.approx(1, abs=1e-4), "of training to training"
    assert LEAST < found["drift"] == pytest.approx(found["drift_by_hand"], rel=1e-3)
    assert found["correction"] == pytest.approx(found["correction_by_hand"], rel=1e-4)
    assert found["correction"] != 1
    assert 0 < found["above_cap"] < 1


def test_what_can_not_decode_in_fp8_is_refused(one: Results):
    engine, beyond, width = one["fp8_refused"]
    assert engine.startswith("rollout.precision: fp8 doesn't work with rollout.engine=modules, which multi")
    assert "what model.megatron sets" in beyond
    assert "kv_lora_rank + qk_pos_emb_head_dim = 24 is no multiple of 16" in width
