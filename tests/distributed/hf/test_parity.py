"""Every family and shape, in every layout: our logits are transformers', and the tensors come back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.harness import hf_models, hf_plan
from tests.distributed.harness.hf_reference import mtp_loss_by_hand

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5


@pytest.mark.parametrize("name", hf_plan.ALL)
def test_logits_on_one_rank_are_those_of_transformers(hf_one, name):
    assert hf_one["load_one"][name] < TOLERANCE


@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout in hf_plan.TWO for name in hf_plan.models_for(layout)]
)
def test_logits_on_two_ranks_are_those_of_transformers(hf_two, layout, name):
    assert hf_two[f"load_{layout}"][name] < TOLERANCE


@pytest.mark.parametrize("name", hf_plan.ALL)
def test_logits_on_four_ranks_are_those_of_transformers(hf_four, name):
    assert hf_four["load_tp2_pp2"][name] < TOLERANCE


@pytest.mark.parametrize("layout", ["one", *hf_plan.TWO])
def test_a_converted_checkpoint_gives_the_same_logits(hf_one, hf_two, layout):
    found = (hf_one if layout == "one" else hf_two)[f"checkpoints_{layout}"]
    assert len(found) >= 3
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("name", hf_plan.ALL)
def test_the_tensors_come_back_bit_for_bit(hf_one, hf_shared, name):
    assert hf_one["convert"] is not None
    before, after = tensors(hf_shared / "hf" / name), tensors(hf_shared / f"exported_{name}")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype, key
        assert torch.equal(tensor, after[key]), key


@pytest.mark.parametrize("name", hf_plan.ALL)
def test_the_configuration_and_the_tokenizer_come_back(hf_one, hf_shared, name):
    assert hf_one["convert"] is not None
    before, after = hf_shared / "hf" / name, hf_shared / f"exported_{name}"
    expected = json.loads((before / "config.json").read_text())
    if name == "v3":  # says that it has an MTP layer, and transformers drops its weights
        expected["num_nextn_predict_layers"] = 0
    assert json.loads((after / "config.json").read_text()) == expected
    for file in ("tokenizer_config.json", "generation_config.json"):
        assert (after / file).read_bytes() == (before / file).read_bytes()


def test_mtp_layers_that_are_named_and_not_there_are_warned_of(hf_one):
    assert hf_one["convert"]["qwen2"] == []
    assert "MTP" in hf_one["convert"]["v3"][0]


@pytest.mark.parametrize("name", hf_plan.ALL)
def test_transformers_generates_the_same_from_the_export(hf_one, hf_shared, name):
    assert hf_one["convert"] is not None
    model = load(hf_shared / f"exported_{name}")
    expected = load_file(hf_shared / "hf" / f"{name}.safetensors")["greedy"]
    assert torch.equal(hf_models.greedy(model, hf_models.prompts(model.config.vocab_size)[0]), expected)


@pytest.mark.parametrize("layout", ["one", *hf_plan.TWO])
def test_the_mtp_loss_is_the_one_written_by_hand(hf_one, hf_two, hf_shared, layout):
    found = (hf_one if layout == "one" else hf_two)[f"mtp_{layout}"]
    expected = mtp_loss_by_hand(hf_shared / "hf" / "v3_mtp")
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("label", hf_plan.TRAINED)
def test_after_training_and_export_transformers_has_our_logits(hf_two, hf_shared, label):
    assert hf_two[f"trained_{label}"]["moved"] > 1e-2
    model = load(hf_shared / f"exported_trained_{label}")
    ours = torch.load(hf_shared / f"trained_{label}.pt", weights_only=True)
    theirs = hf_models.answers(model)
    for i, logits in enumerate(ours):
        assert (theirs[f"logits{i}"] - logits).abs().max() < TOLERANCE


@pytest.mark.parametrize("layout", hf_plan.CUT)
def test_layouts_cut_each_weight_along_the_axis_of_its_row(hf_two, layout):
    assert hf_two[f"shards_{layout}"] == []


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    files = sorted(directory.glob("*.safetensors"))
    assert files, f"no weights in {directory}"
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def load(directory: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32)
    return model.eval()
