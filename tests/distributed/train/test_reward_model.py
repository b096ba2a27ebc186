"""A reward model scores and trains alike in every layout, and as TRL's RewardTrainer does."""

import pytest

from tests.distributed.harness import score_plan
from tests.distributed.harness.ranks import Results

pytestmark = pytest.mark.slow

LOSS = 2e-6
SCORE = 5e-5


def assert_same_training(found: dict, expected: dict) -> None:
    assert found["loss"] == pytest.approx(expected["loss"], rel=0, abs=LOSS)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)
    assert found["accuracy"] == expected["accuracy"]
    assert found["scores"] == pytest.approx(expected["scores"], rel=0, abs=SCORE)


def test_the_training_that_layouts_are_compared_with_moves(one: Results) -> None:
    found = one["scored_v3_one"]
    assert max(found["loss"]) - min(found["loss"]) > 1000 * LOSS
    assert min(found["grad_norm"]) > 0.1
    assert max(found["scores"]) - min(found["scores"]) > 1000 * SCORE


@pytest.mark.parametrize("layout", score_plan.TWO)
def test_a_deepseek_v3_reward_model_on_two_ranks_trains_as_on_one(
    one: Results, two: Results, layout: str
) -> None:
    assert_same_training(two[f"scored_v3_{layout}"], one["scored_v3_one"])


@pytest.mark.parametrize("layout", score_plan.QWEN2_TWO)
def test_a_qwen2_reward_model_on_two_ranks_trains_as_on_one(one: Results, two: Results, layout: str) -> None:
    assert_same_training(two[f"scored_qwen2_{layout}"], one["scored_qwen2_one"])


def test_the_packs_that_a_pair_lies_in_do_not_matter(one: Results) -> None:
    assert_same_training(one["scored_v3_large_packs"], one["scored_v3_one"])


def test_a_saved_reward_model_scores_the_same_bit_for_bit(one: Results) -> None:
    assert one["rescored_one"] == one["scored_v3_one"]["scores"]


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
def test_every_rank_of_another_layout_reads_the_same_scores(one: Results, two: Results, layout: str) -> None:
    for found in two.ranks(f"rescored_{layout}"):
        assert found == pytest.approx(one["scored_v3_one"]["scores"], rel=0, abs=1e-5)


def test_loss_and_gradients_are_those_of_trl_s_reward_trainer(one: Results) -> None:
    found = one["beside_trl"]
    assert found["ours"] == pytest.approx(found["theirs"], rel=0, abs=1e-6)
    assert found["norm"] == pytest.approx(found["their_norm"], rel=1e-5)
    assert len(found["gaps"]) == 3 + 12 * 4  # every weight of four layers, embedding, norm and head
    assert max(found["gaps"].values()) < 1e-5


def test_a_reward_model_may_start_from_hugging_face_s_files(one: Results) -> None:
    found = one["scored_files_one"]
    assert found["gap"] == 0
    assert found["spread"] > 1000 * SCORE
