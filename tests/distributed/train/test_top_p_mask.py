import pytest
import torch

from megatron_r1.backend.model.top_p_mask import TopPMaskRecorder, join_lists, pairs
from tests.distributed.harness import replay_plan as plan
from tests.distributed.harness.ranks import Results


def test_a_nucleus_is_a_list_of_ids_a_token():
    recorder = TopPMaskRecorder(2)
    recorder.note([0, 1], torch.tensor([[True, False, True], [False, True, False]]))
    recorder.note([1], torch.tensor([[True, True, True]]))
    recorder.note([1], torch.tensor([[True, False, False]]))  # past the end of its output
    first, second = recorder.of_rows([1, 2])
    assert (first.ids.tolist(), first.offsets.tolist()) == ([0, 2], [0, 2])
    assert (second.ids.tolist(), second.offsets.tolist()) == ([1, 0, 1, 2], [0, 1, 4])


def test_pairs_on_a_context_rank_are_numbered_in_its_order():
    nucleus = join_lists([torch.tensor([7]), torch.tensor([]), torch.tensor([4, 5]), torch.tensor([9])])
    positions, ids = pairs(nucleus, torch.tensor([3, 0]))
    assert sorted(zip(positions.tolist(), ids.tolist(), strict=True)) == [(0, 9), (1, 7)]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", plan.TEMPERATURES)
@pytest.mark.parametrize("layout", ["one", "tp2"])
def test_truncated_logprobs_entropies_and_gradients_are_those_by_hand(
    one: Results, two: Results, layout: str, temperature: float
):
    results = {"one": one, "tp2": two}[layout]
    found = results[f"truncated_{temperature}_{layout}"]
    assert found["logprobs"] < 1e-5
    assert found["entropy"] < 1e-5
    assert found["gradient"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["one", *plan.TWO])
def test_training_on_the_rollouts_nuclei_is_at_the_rollout(one: Results, two: Results, layout: str):
    found = one["nucleus_one"] if layout == "one" else two[f"nucleus_{layout}"]
    assert found["calm"] < 1e-5
    assert found["whole_vocabulary"] > 0.1  # without them the log-probs are of another distribution


@pytest.mark.slow
def test_the_ratio_is_one_on_policy(one: Results, two: Results):
    for found in (one["ratio_one"], two["ratio_tp2"], two["ratio_cp2"]):
        assert found["old_logprobs"] < 1e-6
        assert found["ref_logprobs"] < 1e-5  # the reference on its own routes, the same weights here
        assert found["entropy"] > 0
