"""Every configuration in conf/: check passes, a plan says whether it fits, figures are the published ones."""

import json
from math import prod
from pathlib import Path

import pytest

from megatron_r1.check import findings as check_module
from megatron_r1.check.findings import check
from megatron_r1.errors import ConfigError
from megatron_r1.huggingface.config_file import family_of
from megatron_r1.models.weights import num_parameters
from megatron_r1.plan.plan import make_plan
from megatron_r1.run.config import load_run

CONF = Path(__file__).parents[1] / "conf"
RUNS = sorted(path.stem for path in CONF.glob("*.yaml"))
# the bases as published: config.json, by hand; and the parameters that their model cards count
QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip
MATH = {**QWEN, "max_position_embeddings": 4096, "rope_theta": 10000}
LONG = {**QWEN, "max_position_embeddings": 131072, "rope_theta": 1e6, "rms_norm_eps": 1e-5}
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False,
    "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 5e5, "tie_word_embeddings": False, "vocab_size": 128256,
    "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
}  # fmt: skip


MOONLIGHT = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": False,
    "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 11264,
    "kv_lora_rank": 512, "max_position_embeddings": 8192, "moe_intermediate_size": 1408, "moe_layer_freq": 1,
    "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": True,
    "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16,
    "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0, "routed_scaling_factor": 2.446, "scoring_func": "sigmoid", "topk_group": 1,
    "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 163840, "tie_word_embeddings": False,
}  # fmt: skip


def sizes(hidden, inner, layers, heads, groups):
    return {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": groups}  # fmt: skip


STUDENTS = {  # the rate (R1 B.4.3, table 6), the base, its parameters
    "qwen_1_5b": (1e-4, "Qwen2.5-Math-1.5B", 1_543_714_304, {
        **MATH, **sizes(1536, 8960, 28, 12, 2), "vocab_size": 151936, "tie_word_embeddings": True}),
    "qwen_7b": (8e-5, "Qwen2.5-Math-7B", 7_615_616_512, {**MATH, **sizes(3584, 18944, 28, 28, 4)}),
    "qwen_14b": (7e-5, "Qwen2.5-14B", 14_770_033_664, {**LONG, **sizes(5120, 13824, 48, 40, 8)}),
    "qwen_32b": (6e-5, "Qwen2.5-32B", 32_763_876_352, {**LONG, **sizes(5120, 27648, 64, 40, 8)}),
    "llama_8b": (5e-5, "Llama-3.1-8B", 8_030_261_248, {**LLAMA, **sizes(4096, 14336, 32, 32, 8)}),
    "llama_70b": (2e-5, "Llama-3.3-70B-Instruct", 70_553_706_496, {**LLAMA, **sizes(8192, 28672, 80, 64, 8)}),
}  # fmt: skip


def write_headers(directory: Path, config: dict) -> None:
    """A model without its numbers: config.json, and a file that is a header and a hole."""
    family, offset, header = family_of(config, directory), 0, {}
    for weight in family.weights():
        for part, name in enumerate(weight.hf):
            shape = weight.hf_shape(part)
            end = offset + 2 * prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            offset = end
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def test_every_configuration_is_known_here():
    assert set(RUNS) == {
        "r1_671b", "r1_moe_16b", "r1_zero_671b", "tiny_r1", "tiny_zero", "tiny_zero_ep2",
        *(f"distill_{name}" for name in STUDENTS),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith("distill_")])
def test_check_passes_and_plans_once(name, monkeypatch):
    planned = []
    monkeypatch.setattr(check_module, "make_plan", lambda *given: planned.append(given) or make_plan(*given))
    report = check(CONF / f"{name}.yaml", files=False)
    assert report.startswith(f"{name}: no problems found")
    assert len(planned) == (0 if name.startswith("tiny_") else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_its_published_base_with_the_papers_rate_and_fits(name, tmp_path, monkeypatch):
    rate, base, parameters, config = STUDENTS[name]
    monkeypatch.chdir(tmp_path)
    path = CONF / f"distill_{name}.yaml"
    with pytest.raises(ConfigError, match="no such directory: models/"):
        check(path)
    write_headers(tmp_path / "models" / base, config)
    (tmp_path / "data" / "r1_800k").mkdir(parents=True)
    with pytest.raises(ConfigError) as error:  # the weights fit; of tokenizer and data there is nothing
        check(path)
    assert "tokenizer.json: no such file" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    report = check(path, files=False)
    assert f"sft, from hf:models/{base}" in report
    assert "warnings\n  layout" in report  # nothing but the cores of this machine
    assert "needs" not in report.split("warnings")[1]
    run = load_run(path).value
    assert num_parameters(run.model.weight_rows()) == parameters
    stage = run.stages["distilled"]
    assert (stage.optim.lr, stage.optim.final_share, stage.examples) == (rate, 0.1, 64)
    assert stage.steps == 2 * 804_745 // 64


@pytest.mark.slow
def test_one_node_holds_the_whole_chain_of_the_16b_mixture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_headers(tmp_path / "models" / "Moonlight-16B-A3B", MOONLIGHT)
    (tmp_path / "data" / "rl").mkdir(parents=True)
    (tmp_path / "data" / "rl" / "math.jsonl").touch()
    with pytest.raises(ConfigError, match=r"^\S+: tokenizer: \S+: no such file[^\n]*$"):
        check(CONF / "r1_moe_16b.yaml")
    assert "from hf:models/Moonlight-16B-A3B" in check(CONF / "r1_moe_16b.yaml", files=False)
    run = load_run(CONF / "r1_moe_16b.yaml").value
    found = make_plan(run, "h100")
    assert (run.layout.ranks, found.misfits(), found.unplanned) == (8, [], [])
    # Moonlight, table 2: 15.29 billion without the embeddings
    assert (found.parameters - 2 * 163840 * 2048) / 1e9 == pytest.approx(15.29, abs=0.005)


@pytest.mark.slow
def test_512_h800_hold_r1_s_chain_with_the_models_beside_the_policy():
    found = make_plan(load_run(CONF / "r1_671b.yaml").value, "h800")
    assert (found.misfits(), found.unplanned) == ([], [])
    ranks = {stage.name: stage.memory for stage in found.stages}
    models = {"r1": 2, "rejection": 1, "pairs": 1}  # reward models, or a judge
    for name, count in models.items():
        for mine, dev2 in zip(ranks[name], ranks["dev2"], strict=True):
            assert mine.other_models == count * dev2.reference


@pytest.mark.slow
def test_r1_as_published_has_the_papers_figures():
    stages = load_run(CONF / "r1_671b.yaml").value.stages
    assert sum(stages["rejection"].quotas.values()) + 177_812 == 804_745  # R1 B.3.3
    assert stages["dev2"].loss.clip_high == 10
    assert (stages["r1"].temperature, stages["r1"].final.updates) == (0.7, 400)
    assert 1700 - 16 < stages["r1"].steps * stages["r1"].updates <= 1700
    zero = stages["zero"]
    assert (zero.steps * zero.updates, zero.questions * zero.group_size) == (10_400, 8192)
