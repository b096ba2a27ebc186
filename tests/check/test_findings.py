from pathlib import Path

import pytest
import torch

from megatron_r1 import registry
from megatron_r1.check import findings as check_module
from megatron_r1.check.findings import check
from megatron_r1.errors import ConfigError
from megatron_r1.run.config import load_run, run_config_class
from tests.huggingface import made_model
from tests.run.toy_run import STAGES, TEXT

MOE = """\
model:
  family: deepseek_v3
  vocab_size: 64
  num_layers: 4
  hidden_size: 48
  num_attention_heads: 4
  kv_lora_rank: 32
  qk_head_dim: 16
  qk_pos_emb_head_dim: 8
  v_head_dim: 16
  ffn_hidden_size: 128
  num_experts: 8
  experts_per_token: 2
  moe_ffn_hidden_size: 32
  mtp_layers: 1
"""


@pytest.fixture(autouse=True)
def toy_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "stages", lambda: STAGES)
    monkeypatch.setattr(check_module, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run_config_class.cache_clear()
    yield
    run_config_class.cache_clear()


def checked(*overrides: str) -> str:
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    return check(Path("x.yaml"), overrides=overrides)


def errors(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        checked(*overrides)
    return str(error.value).splitlines()


def test_the_report_reads_as_the_run_will_go():
    assert checked() == (
        "toy: no problems found\n"
        "\n"
        "layout\n"
        "  ranks          2 replicas = 2\n"
        "  layers a rank  4\n"
        "  precision      fp32\n"
        "\n"
        "stages\n"
        "  base  learn, from random weights\n"
        "  zero  ask, from base\n"
        "\n"
        "batch of zero\n"
        "  outputs a step     8 questions x 4 outputs = 32\n"
        "  outputs a replica  32 / 2 = 16"
    )


def test_a_model_that_can_t_be_built_is_named_with_its_line():
    assert errors("model.num_query_groups=3", "model.num_attention_heads=6") == [
        "override 'model.num_attention_heads=6': model.num_attention_heads: 6 does not divide "
        "hidden_size=32; use 1 or 2 or 4 or 8 or 16 or 32, or give head_dim",
    ]


def test_speculation_needs_an_mtp_layer_and_our_own_loop():
    (line,) = [line for line in errors("rollout.speculation=mtp") if "rollout.speculation" in line]
    assert "no model has an MTP layer to draft with; set model.mtp_layers: 1" in line
    Path("moe.yaml").write_text(f"base: x.yaml\n{MOE}", encoding="utf-8")
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    assert "no problems found" in check(Path("moe.yaml"), overrides=["rollout.speculation=mtp"])
    refused = r"rollout\.speculation: mtp doesn't work with .*=modules, which checks no drafts; use megatron"
    with pytest.raises(ConfigError, match=refused):
        check(Path("moe.yaml"), overrides=["rollout.speculation=mtp", "rollout.engine=modules"])


def test_rollouts_in_fp8_need_our_own_loop_and_widths_that_fit():
    Path("moe.yaml").write_text(f"base: x.yaml\n{MOE}", encoding="utf-8")
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    fp8, fits = "rollout.precision=fp8", "model.qk_pos_emb_head_dim=16"
    assert "  precision       fp32, rollouts fp8\n" in check(Path("moe.yaml"), overrides=[fp8, fits])
    with pytest.raises(ConfigError) as error:
        check(Path("moe.yaml"), overrides=[fp8, "rollout.engine=modules", "model.hidden_size=40"])
    assert {line.partition("rollout.precision: fp8")[2] for line in str(error.value).splitlines()} == {
        " doesn't work with rollout.engine=modules, which multiplies by the weights as they are; use "
        "megatron, or leave rollout.precision out",
        ": hidden_size = 40 is no multiple of 16, as FP8 products need; change it",
        ": kv_lora_rank + qk_pos_emb_head_dim = 40 is no multiple of 16, as FP8 products need; change it",
    }


def test_a_gpu_that_is_too_old_for_fp8_is_refused_where_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"needs a GPU of compute capability 8\.9 or newer"):
        check(Path("x.yaml"), overrides=["rollout.precision=fp8"])
    assert "no problems found" in check(Path("x.yaml"), overrides=["rollout.precision=fp8"], files=False)


def test_decoding_steps_as_graphs_are_for_our_loop_on_whole_models():
    graphs = "rollout.cuda_graphs=true"
    assert "no problems found" in checked(graphs, "layout={ranks: 2, tensor: 2}")
    found = errors(graphs, "layout={ranks: 4, pipeline: 2}", "rollout.engine=dynamic")
    assert [line.partition("rollout.cuda_graphs: true doesn't work with ")[2] for line in found] == [
        "rollout.engine=dynamic, which takes its steps otherwise; use megatron, or set rollout.cuda_graphs "
        "to false",
        "layout.pipeline=2: it is the host that sends between pipeline stages; set rollout.cuda_graphs to "
        "false, or set pipeline to 1",
    ]


def test_layers_and_experts_are_counted_by_rank():
    Path("moe.yaml").write_text(f"base: x.yaml\n{MOE}", encoding="utf-8")
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    report = check(Path("moe.yaml"), overrides=["layout={ranks: 8, pipeline: 2, tensor: 2, expert: 2}"])
    assert "  ranks           tensor 2 x pipeline 2 x 2 replicas = 8\n" in report
    assert "  layers a rank   2 on pipeline rank 0, 2 and 1 MTP on pipeline rank 1\n" in report
    assert "  experts a rank  8 experts / expert 2 = 4; 2 replicas of each\n" in report


def test_an_uneven_pipeline_is_summed_up():
    report = checked("layout={ranks: 4, pipeline: 4, pipeline_split: E|t*2|tt|L}")
    assert "layers a rank  0 on pipeline rank 0, 2 on pipeline rank 1-2, 0 on pipeline rank 3\n" in report


def test_a_rollout_layout_is_held_to_the_same_rules():
    assert "  rollout        tensor 2 x 1 replicas = 2\n" in checked("rollout.layout={tensor: 2}")
    assert "rollout" not in checked("rollout.layout={distributed_optimizer: false}").split("stages")[0]
    lines = errors("rollout.layout={ranks: 4, tensor: 3, expert: 2}")
    for words in (
        "rollout.layout.ranks: 4, and layout.ranks=2; training and rollout take turns",
        "2 ranks cannot hold tensor=3 (3)",
        "rollout.layout: tensor=3 does not divide num_attention_heads=4; use 1 or 2",
        "rollout.layout: expert=2 needs a model with experts",
    ):
        assert any(words in line for line in lines), lines
    (line,) = errors("rollout.layout={context: 2}", "rollout.engine=dynamic")
    assert "rollout.engine: rollout.layout.context=2 doesn't work with rollout.engine=dynamic" in line
    (line,) = errors("rollout.engine=modules", "layout.context=2")
    assert "rollout.engine: layout.context=2 doesn't work with rollout.engine=modules, which has RoPE" in line


def test_what_nemo_can_t_sample_is_said_before_it_is_asked_to():
    (line,) = errors("rollout.engine=nemo")
    assert "rollout.engine: nemo needs nemo-toolkit 2.7, which is not in this environment;" in line
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    assert "no problems found" in check(Path("x.yaml"), overrides=["rollout.engine=nemo"], files=False)
    Path("moe.yaml").write_text(f"base: x.yaml\n{MOE}", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        check(Path("moe.yaml"), overrides=["rollout.engine=nemo", "layout.expert=2"], files=False)
    beside = "doesn't work with rollout.engine=nemo, which"
    assert {line.partition("rollout.engine: ")[2] for line in str(error.value).splitlines()} == {
        f"multi-head latent attention {beside} can't run MLA on the modules that train (megatron-core 0.19.2)"
        "; use megatron",
        f"layout.expert=2 {beside} ends with a rank's own completions, while others wait for its experts; "
        "use megatron, or set expert to 1",
    }


def test_all_mistakes_come_at_once_each_where_it_was_made():
    lines = errors(
        "stages.zero.init=bose",
        "template=minimum",
        "tokenizer.train.source=aritmetic",
        "layout.pipeline=3",
        "stages.base.path=no.jsonl",
    )
    assert [line.partition(" (")[0] for line in lines] == [
        "override 'stages.base.path=no.jsonl': stages.base.path: no such file: no.jsonl",
        "override 'stages.zero.init=bose': stages.zero.init: no earlier stage 'bose'; did you mean base?",
        "override 'template=minimum': template: no template 'minimum'; did you mean minimal?; "
        "one of deepseek, minimal, r1_zero",
        "override 'tokenizer.train.source=aritmetic': tokenizer.train.source: no data source 'aritmetic'; "
        "did you mean arithmetic?; one of gym, jsonl, stage, arithmetic, assistant, "
        "gym_words, unusual",
        "x.yaml:12: layout: 2 ranks cannot hold pipeline=3",
        "x.yaml:12: layout: pipeline=3 does not divide num_layers=4; use 1 or 2, or say an uneven split in "
        "pipeline_split",
    ]


def test_the_escape_hatch_is_checked_against_megatron_s_fields():
    assert errors("model.megatron={no_such_field: 1}") == [
        "override 'model.megatron={no_such_field: 1}': model.megatron: "
        "no_such_field: no field of megatron-core's TransformerConfig"
    ]
    (line,) = errors("model.megatron.fp16=true", "model.megatron.bf16=true")
    assert "model.megatron: Megatron refuses the model with {'fp16': True, 'bf16': True}: Only one of" in line
    assert "no problems" in checked("model.megatron.moe_z_loss_coeff=0.001")


def test_the_escape_hatch_does_not_open_what_would_compute_wrongly():
    (line,) = errors("model.megatron.batch_p2p_comm=true", "model.megatron.context_parallel_size=2")
    assert "batch_p2p_comm: layout.virtual_pipeline decides it: an interleaved pipeline" in line
    assert "context_parallel_size: layout decides it; leave it out" in line
    (line,) = errors("model.megatron.overlap_moe_expert_parallel_comm=true")
    assert "overlap_moe_expert_parallel_comm: layout decides it" in line
    (line,) = errors("model.megatron.moe_router_load_balancing_type=aux_loss")
    assert "its result would depend on what shares a pack, so on the layout" in line
    (line,) = errors("model.megatron={hidden_dropout: 0.1, moe_input_jitter_eps: 0.01}")
    assert "hidden_dropout: the log-probs of training would be those of another network" in line


def test_more_ranks_than_cores_is_a_warning_with_its_cost():
    report = checked("layout.ranks=8")
    assert "warnings\n  layout: 8 ranks share 2 cores" in report


def test_fp8_without_a_gpu_is_a_warning():
    assert "precision: fp8_blockwise needs GPUs" in checked("precision=fp8_blockwise")
    assert "warnings" not in checked("precision=bf16")


def test_a_stage_warns_in_its_own_name():
    assert "  stages.zero: few questions" in checked("stages.zero.questions=2")


def test_a_stage_s_problems_have_the_line_of_the_key_or_of_the_stage():
    assert errors("layout.ranks=3", "run_dir=z") == [
        "x.yaml:15: stages.zero: no question is like another",
        "x.yaml:18: stages.zero.questions: 8 do not divide over 3 replicas; change one",
    ]


def test_files_must_be_there(tmp_path):
    lines = errors(
        "stages.base.path=no.jsonl", "stages.base.init=hf:none", "tokenizer={kind: huggingface, path: t}"
    )
    assert [line.split("': ", 1)[1] for line in lines] == [
        f"stages.base.init: no such directory: none (from {tmp_path})",
        f"stages.base.path: no such file: no.jsonl (from {tmp_path})",
        f"tokenizer.path: no such file: t (from {tmp_path})",
    ]


def test_files_that_are_there_are_fine():
    Path("hf").mkdir()
    (line,) = errors("stages.base.init=hf:hf")
    assert "no config.json in hf" in line
    made_model.write(Path("hf"), load_run(Path("x.yaml")).value.model)
    Path("yes.jsonl").write_text("")
    assert "base  learn, from hf:hf" in checked("stages.base.init=hf:hf", "stages.base.path=yes.jsonl")


def test_weights_of_another_model_are_found_before_the_start():
    made_model.write(Path("hf"), made_model.V3)
    Path("yes.jsonl").write_text("")
    (line,) = errors("stages.base.init=hf:hf", "stages.base.path=yes.jsonl")
    assert "stages.base.init: hf: holds another model than `model` describes" in line
