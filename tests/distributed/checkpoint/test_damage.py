"""Checkpoints that fail to be written leave nothing; damaged ones are refused by the name of the file."""

import pytest

from tests.distributed.harness.ranks import Results

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_cannot_write_fails_all_ranks_with_one_error(two: Results, rank: int) -> None:
    errors = {found["error"] for found in two.ranks(f"rank_{rank}_cannot_write")}
    assert len(errors) == 1
    error = errors.pop()
    assert "step_00000002: not written" in error
    assert f"rank {rank}" in error
    assert "File too large" in error


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failed_save_leaves_earlier_checkpoints_and_nothing_else(two: Results, rank: int) -> None:
    found = two[f"rank_{rank}_cannot_write"]
    assert found["left"] == ["step_00000001"]


@pytest.mark.parametrize("rank", [0, 1])
def test_saving_works_again_after_a_failed_save(two: Results, rank: int) -> None:
    found = two[f"rank_{rank}_cannot_write"]
    assert found["latest"].endswith("step_00000003")
    assert found["state"] == {"step": 3}


def test_a_full_disk_is_said_in_words_wherever_it_fills_up(two: Results) -> None:
    ranks = two.ranks("full_disk")
    if not ranks[0]:
        pytest.skip("mounting a small file system is not allowed here")
    for found in ranks:
        for size, outcome in found.items():
            assert "No space left on device" in outcome["error"], size
            assert outcome["left"] == [], size


def test_every_damaged_file_is_refused_by_its_name_on_every_rank(two: Results) -> None:
    for found in two.ranks("damaged"):
        assert len(found["errors"]) >= 3 * 6  # two ranks' tensors, their index, state and manifest
        for damage, error in found["errors"].items():
            assert f"/{damage.split()[1]}" in error or damage == "_remove manifest.json", (damage, error)
            assert "take another" in error, (damage, error)


def test_a_refused_checkpoint_leaves_the_policy_as_it_was(two: Results) -> None:
    assert all(found["unchanged"] for found in two.ranks("damaged"))


def test_another_model_is_refused_with_the_fields_that_differ(two: Results) -> None:
    for found in two.ranks("wrong_model"):
        assert "moe_ffn_hidden_size: 32 in the checkpoint, 64 here" in found["wider"]
        assert "mtp_layers: 1 in the checkpoint, 0 here" in found["wider"]
        assert "num_layers" not in found["wider"]
        assert "family: deepseek_v3 in the checkpoint, qwen2 here" in found["dense"]


def test_weights_without_an_optimizer_are_no_point_to_go_on_from(two: Results) -> None:
    for found in two.ranks("wrong_model"):
        assert "holds no optimizer" in found["no_optimizer"]
        assert "weights_only" in found["no_optimizer"]


def test_a_directory_that_is_not_there_is_said_so(two: Results) -> None:
    for found in two.ranks("wrong_model"):
        assert "nowhere: no complete checkpoint" in found["absent"]
