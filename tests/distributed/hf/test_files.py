import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("way", ["import", "export"])
def test_a_conversion_that_was_cut_goes_on_where_it_stopped(hf_one, way):
    found = hf_one["interrupted"][way]
    assert "No space left on device" in found["message"]
    assert not found["exists"]  # nothing looks complete
    assert found["kept"] >= 2
    assert found["again"] == found["kept"]  # the same files, not written again
    assert found["left"] == []
    assert not found["partial"]


def test_a_checkpoint_is_as_large_as_its_weights(hf_one):
    # each of the 80 pieces, and the empty state of each module, has a frame of its own
    assert hf_one["interrupted"]["overhead"] < 300_000


def test_a_target_that_exists_is_refused(hf_one):
    assert "taken: exists; remove it or give another name" in hf_one["refused"]["taken"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(hf_one):
    assert "GB are needed on this disk" in hf_one["refused"]["disk"]
    assert hf_one["refused"]["written"] == ["refused_hf"]


def test_a_damaged_checkpoint_is_not_exported(hf_one):
    assert " were written; take another checkpoint" in hf_one["refused"]["damaged"]
    assert hf_one["refused"]["out"] == []


@pytest.mark.parametrize("way", ["import", "load"])
def test_weights_that_are_not_finite_are_named(hf_one, way):
    first, second = sorted(hf_one["not_finite"][way])
    assert "decoder.layers.0.self_attention.linear_qkv.bias holds numbers that are not finite" in first
    assert "decoder.layers.1.mlp.linear_fc2.weight holds numbers that are not finite" in second


def test_fp8_blocks_come_back_bit_for_bit_in_codes_and_scales(hf_one):
    found = hf_one["blocks"]
    assert found["num_blocks"] > 30
    assert found["differing"] == found["extra"] == []
    assert found["precision"] == "bf16"
    assert found["config"]["activation_scheme"] == "dynamic"


def test_transformers_reads_an_fp8_export_as_we_do(hf_one):
    found = hf_one["blocks_in_transformers"]
    assert found["size"] > 1
    assert found["ours_to_theirs"] < 1e-5
    assert 1e-3 < found["ours_to_exact"] < 0.2 * found["size"]  # FP8 did change the weights


def test_fp8_blocks_become_plain_weights_where_nobody_asks_for_fp8(hf_one):
    assert hf_one["blocks"]["plain"] == ["torch.bfloat16", "torch.float32"]  # the routers' bias
    assert not hf_one["blocks"]["plain_config"]


@pytest.mark.parametrize(("name", "precision"), [("bf16", "bf16"), ("fp16", "fp32")])
def test_number_formats_come_back_tensor_by_tensor(hf_one, name, precision):
    assert hf_one["formats"][name] == {"precision": precision, "differing": []}


def test_another_number_format_can_be_asked_for(hf_one):
    assert hf_one["formats"]["asked"] == ["torch.float32"]
    assert hf_one["formats"]["asked_config"] == "float32"
