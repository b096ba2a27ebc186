"""What can be wrong in a directory: each mistake is refused with its name."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_r1.errors import CheckpointError, ConfigError
from megatron_r1.huggingface import describe, fp8
from megatron_r1.huggingface.source import Source
from tests.huggingface.made_model import QWEN, V3, tensors, write

Q = "model.layers.0.self_attn.q_proj.weight"
TIED = QWEN.model_copy(update={"tie_embeddings": True})
INDEX = "model.safetensors.index.json"


def plan(directory, wanted=None):
    return Source(directory).plan(wanted)


def change_index(directory, change):
    path = directory / INDEX
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("family", [QWEN, V3])
@pytest.mark.parametrize("shards", [1, 3])
def test_what_the_table_wrote_it_reads(tmp_path, family, shards):
    found = plan(write(tmp_path, family, shards=shards))
    assert found.family == family
    assert found.warnings == []


def test_several_files_need_no_index(tmp_path):
    write(tmp_path, shards=3)
    (tmp_path / INDEX).unlink()
    assert plan(tmp_path).family == QWEN


def test_the_type_serves_where_no_architecture_is_named(tmp_path):
    write(tmp_path, architectures=None)
    assert plan(tmp_path).family == QWEN


@pytest.mark.parametrize(
    ("spelling", "theta"),
    [
        ({"rope_theta": 5e4, "rope_scaling": None}, 5e4),
        ({"rope_theta": None, "rope_scaling": None, "rope_parameters": {"rope_theta": 3e4}}, 3e4),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 3e4, "rope_type": "default"}}, 3e4),
    ],
)
def test_both_spellings_of_rope_are_read(tmp_path, spelling, theta):
    assert plan(write(tmp_path, **spelling)).family.rope_theta == theta


def test_slices_of_fp8_blocks_come_out_dequantised(tmp_path):
    values = tensors(V3)
    name = "model.layers.0.mlp.down_proj.weight"
    codes, scales = fp8.quantize(values[name])
    values |= {name: codes, f"{name}_scale_inv": scales}
    source = Source(write(tmp_path, V3, values=values, quantization_config=QUANTIZED))
    assert source.plan().family == V3
    whole = fp8.dequantize(codes, scales, torch.bfloat16)
    assert torch.equal(source.read(name, torch.bfloat16), whole)
    part = source.read(name, torch.bfloat16, rows=range(100, 150), columns=range(130, 190))
    assert torch.equal(part, whole[100:150, 130:190])


QUANTIZED = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json: no such file"),
        (lambda d: (d / "config.json").write_text("{nonsense"), "config.json: not JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "a JSON object is needed, not an array"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "config.json: not JSON"),
        (lambda d: (d / "model-00002-of-00003.safetensors").unlink(), "00002-of-00003.safetensors: missing"),
        (lambda d: cut(d / "model-00002-of-00003.safetensors"), "00002.* the file is cut"),
        (lambda d: change_index(d, lambda m: m.update(stray="model-00001-of-00003.safetensors")),
         "disagrees with the shards; not there: stray in model-00001"),
        (lambda d: change_index(d, lambda m: m.pop(Q)), f"disagrees with the shards; not in the index: {Q}"),
        (lambda d: change_index(d, lambda m: m.update({Q: "../x.safetensors"})), r"directory: '\.\./x"),
        (lambda d: change_index(d, lambda m: m.update({Q: ".."})), r"outside its directory: '\.\.'"),
        (lambda d: change_index(d, lambda m: m.update({Q: "/etc/passwd"})), "outside its directory"),
        (lambda d: change_index(d, lambda m: m.update({Q: ""})), "outside its directory: ''"),
        (lambda d: change_index(d, lambda m: m.update({Q: "a\0b"})), "holds a NUL character, and the index"),
        (lambda d: change_index(d, lambda m: m.update({Q: ["x"]})), "weight_map is no mapping"),
        (lambda d: (d / INDEX).write_text("[" * 9999), "index.json: not JSON: nested deeper"),
        (lambda d: (d / INDEX).write_text('{"weight_map": []}'), "weight_map is no mapping"),
        (lambda d: instead(d / INDEX, "directory"), "index.json: a directory, not a file"),
        (lambda d: instead(d / INDEX, "link"), "index.json: a link to nowhere, which is not there"),
        (lambda d: instead(d / INDEX, "pipe"), "index.json: a named pipe, not a file"),
        (lambda d: instead(d / SHARD, "directory"), "00002.*: a directory, not a file, and the index"),
        (lambda d: instead(d / SHARD, "link"), "00002.*: a link to nowhere, which is not there"),
        (lambda d: instead(d / SHARD, "pipe"), "00002.*: a named pipe, not a file"),
        (lambda d: (d / INDEX).unlink() or instead(d / SHARD, "directory"), "00002.*: a directory, not"),
        (lambda d: (d / INDEX).unlink() or instead(d / SHARD, "link"), "00002.*: a link to nowhere"),
        (lambda d: (d / INDEX).unlink() or instead(d / SHARD, "pipe"), "00002.*: a named pipe"),
        (lambda d: instead(d / "config.json", "pipe"), "config.json: a named pipe, not a file"),
        (lambda d: instead(d / "config.json", "directory"), "config.json: a directory, not a file"),
        (lambda d: (d / "config.json").write_text("[" * 9999), "config.json: not JSON: nested deeper"),
        (lambda d: (d / INDEX).write_text("{}"), "weight_map is no mapping"),
        (lambda d: (d / INDEX).unlink() or next(d.glob("*3.safetensors")).unlink(), "2 of 3 shards"),
    ],
)  # fmt: skip
def test_damaged_directories_are_refused(tmp_path, break_it, words):
    break_it(write(tmp_path, shards=3))
    with pytest.raises(CheckpointError, match=words):
        plan(tmp_path)


SHARD = "model-00002-of-00003.safetensors"


def instead(path, what):
    """Something that is no file in the place of one."""
    path.unlink()
    {"directory": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("nowhere")}[
        what
    ]()


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def test_pickle_is_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("the pickle was loaded",))

    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=r"only pytorch_model.bin, which are pickle and never loaded"):
        plan(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    write(tmp_path)
    save_file({Q: torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=f"{Q} is in .* and in"):
        plan(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.pop(Q), f"tensors are missing: {Q}"),
        (lambda v: v.update(extra=torch.zeros(1)), "tensors that no weight is made of: extra"),
        (lambda v: v.update({Q: v[Q][:8]}), rf"{Q} has the shape \[8, 16\] and .* \[16, 16\]"),
        (lambda v: v.update({Q: v[Q].to(torch.int32)}), f"{Q} is of type torch.int32"),
        (lambda v: v.update({Q: v[Q].to(torch.float8_e4m3fn)}), f"{Q} is of type torch.float8"),
        (lambda v: v.update({Q: v[Q].to(torch.float8_e4m3fn), f"{Q}_scale_inv": torch.ones(2, 1)}),
         r"with scales of shape \[2, 1\] and torch.float32: no FP8 weight in blocks of 128"),
    ],
)  # fmt: skip
def test_tensors_that_the_table_does_not_expect_are_refused(tmp_path, change, words):
    values = tensors(QWEN)
    change(values)
    with pytest.raises(CheckpointError, match=words):
        plan(write(tmp_path, values=values))


def test_old_files_may_hold_rotary_frequencies(tmp_path):
    values = tensors(QWEN) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    assert plan(write(tmp_path, values=values)).family == QWEN


def test_another_quantisation_is_refused(tmp_path):
    write(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ConfigError, match="quantization 'gptq'"):
        plan(tmp_path)


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "DeepseekV2ForCausalLM"])
def test_an_unknown_architecture_is_refused_by_name(tmp_path, architecture):
    write(tmp_path, architectures=[architecture])
    with pytest.raises(
        ConfigError, match=f"'{architecture}' can't be converted; there are DeepseekV3ForCausalLM"
    ):
        plan(tmp_path)


def test_mtp_layers_without_weights_are_left_out_with_a_warning(tmp_path):
    values = {name: value for name, value in tensors(V3).items() if not name.startswith("model.layers.2.")}
    found = plan(write(tmp_path, V3, values=values))
    assert found.family.mtp_layers == 0
    assert "names 1 MTP layer(s) and the files hold none" in found.warnings[0]


@pytest.mark.parametrize(
    ("family", "name", "of"),
    [
        (V3, "model.layers.2.embed_tokens.weight", "model.embed_tokens.weight"),
        (V3, "model.layers.2.shared_head.head.weight", "lm_head.weight"),
        (TIED, "lm_head.weight", "model.embed_tokens.weight"),
    ],
)
def test_a_copy_that_is_none_is_refused(tmp_path, family, name, of):
    values = tensors(family)
    values[name] = values[of].clone()
    source = Source(write(tmp_path / "right", family, values=values))
    source.check_copies(source.plan().family)
    values[name][-1, -1] += 1
    source = Source(write(tmp_path / "wrong", family, values=values))
    with pytest.raises(CheckpointError, match=f"{name} is not {of}"):
        source.check_copies(source.plan().family)


def test_a_run_may_leave_mtp_out_and_set_what_no_weight_depends_on(tmp_path):
    write(tmp_path, V3)
    wanted = V3.model_copy(update={"mtp_layers": 0, "init_std": 0.5, "sequence_aux_loss": 0.0})
    found = plan(tmp_path, wanted)
    assert found.family == wanted
    assert "left out" in found.warnings[0]


def test_a_run_with_another_model_is_refused_with_the_fields(tmp_path):
    write(tmp_path, V3)
    wanted = V3.model_copy(update={"router_scaling_factor": 1.0, "num_experts": 8})
    with pytest.raises(
        ConfigError, match=r"num_experts: 4 in the files, 8 in the run; router_scaling_factor"
    ):
        plan(tmp_path, wanted)
    with pytest.raises(ConfigError, match="family: deepseek_v3 in the files, qwen2 in the run"):
        plan(tmp_path, QWEN)


def test_reading_takes_nothing_but_the_slice(tmp_path):
    source = Source(write(tmp_path))
    expected = load_file(tmp_path / "model.safetensors")[Q]
    assert torch.equal(
        source.read(Q, torch.float32, rows=range(3, 5), columns=range(1, 9)), expected[3:5, 1:9]
    )


def test_ten_million_layers_are_refused_before_their_names_are_made(tmp_path):
    write(tmp_path, num_hidden_layers=10_000_000)
    with pytest.raises(ConfigError, match="num_hidden_layers=10000000 is not between 1 and 10,000"):
        plan(tmp_path)
    write(tmp_path, num_hidden_layers=9_999)
    with pytest.raises(CheckpointError, match="describes a model of 119,991 tensors, and the files hold 27"):
        plan(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "model_type='qwen2' is Qwen2ForCausalLM's"),
        ({"architectures": [["x"]]}, "can't be converted"),
        ({"architectures": 5}, "architecture '5' can't be converted"),
        ({"architectures": [], "model_type": ["qwen2"]}, "can't be converted"),
    ],
)
def test_an_architecture_that_is_none_or_another_is_refused(tmp_path, config, words):
    write(tmp_path, **config)
    with pytest.raises(ConfigError, match=words):
        plan(tmp_path)
    assert "can't be" in describe.describe(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": None},
        {"model_type": "kimi_k2"},
        {"architectures": "Qwen2ForCausalLM"},
        {"model_type": None},
    ],
)
def test_an_architecture_or_a_type_is_enough(tmp_path, config):
    write(tmp_path, **config)
    assert plan(tmp_path).family == QWEN
