"""config.json and the families: every option that can't be converted is refused by name."""

import math

import pytest

from megatron_r1.errors import ConfigError
from megatron_r1.models.deepseek_v3 import DeepseekV3, Yarn
from megatron_r1.models.hf_config import HfConfig
from megatron_r1.models.llama import Llama, Llama3Rope
from megatron_r1.models.qwen2 import Qwen2
from megatron_r1.models.qwen3 import Qwen3
from megatron_r1.models.qwen3_moe import Qwen3Moe

DENSE = {
    "vocab_size": 32, "num_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "num_query_groups": 2,
    "head_dim": 4,
}  # fmt: skip
V3 = DeepseekV3(
    family="deepseek_v3", vocab_size=32, num_layers=4, hidden_size=16, num_attention_heads=2, q_lora_rank=8,
    kv_lora_rank=8, qk_head_dim=8, qk_pos_emb_head_dim=4, v_head_dim=8, ffn_hidden_size=32, num_experts=8,
    experts_per_token=4, moe_ffn_hidden_size=8, num_expert_groups=4, groups_per_token=2, mtp_layers=1,
    yarn=Yarn(factor=4.0, original_max_position_embeddings=64),
)  # fmt: skip
LLAMA = Llama(family="llama", ffn_hidden_size=24, rope_scaling=Llama3Rope(factor=8.0), **DENSE)
QWEN2 = Qwen2(family="qwen2", ffn_hidden_size=24, tie_embeddings=True, **DENSE)
QWEN3 = Qwen3(family="qwen3", ffn_hidden_size=24, **DENSE)
MOE = Qwen3Moe(
    family="qwen3_moe", num_experts=4, experts_per_token=2, moe_ffn_hidden_size=8, **DENSE,
)  # fmt: skip
RULE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}  # fmt: skip
FAMILIES = [V3, LLAMA, QWEN2, QWEN3, MOE]


def read(family, **changes):
    return type(family).from_hf(HfConfig({**family.to_hf(), **changes}))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_what_a_family_writes_it_reads(family):
    expected = family.model_dump()
    found = read(family).model_dump()
    training = {"sequence_aux_loss", "router_bias_update_rate", "mtp_loss_weight", "ffn_hidden_size"}
    differing = {name for name in expected if expected[name] != found[name]}
    assert differing <= (training if family in (V3, MOE) else set())


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        (V3, {"norm_topk_prob": False}, "norm_topk_prob=False: .* off by 5"),
        (V3, {"scoring_func": "softmax"}, "scoring_func='softmax': another router"),
        (V3, {"topk_method": "group_limited_greedy"}, "topk_method='group_limited_greedy': another router"),
        (V3, {"num_experts_per_tok": 8}, "num_experts_per_tok=8 and topk_group=2 of n_group=4: .* best 4"),
        (V3, {"num_experts_per_tok": 1, "n_group": 1, "topk_group": 1}, "num_experts_per_tok=1: Megatron"),
        (V3, {"attention_bias": True}, "attention_bias=True: biases"),
        (V3, {"hidden_act": "gelu"}, "hidden_act='gelu': another activation; only 'silu'"),
        (V3, {"tie_word_embeddings": True}, "tie_word_embeddings=True: tied"),
        (V3, {"num_key_value_heads": 1}, "num_key_value_heads=1: MLA"),
        (V3, {"moe_layer_freq": 2}, "moe_layer_freq=2: layers without experts"),
        (V3, {"first_k_dense_replace": 4}, "first_k_dense_replace=4 of 4 layers: a model without experts"),
        (V3, {"n_routed_experts": None}, "n_routed_experts is missing"),
        (V3, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling of type 'linear': only yarn"),
        (V3, {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "truncate=False"),
        (V3, {"rope_scaling": {"type": "yarn", "factor": 2.0, "attention_factor": 1.1}}, "attention_factor="),
        (V3, {"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale_all_dim": 1.0}}, "without mscale"),
        (V3, {"rope_scaling": {"type": "yarn"}}, "factor is missing"),
        (QWEN2, {"use_sliding_window": True}, "use_sliding_window=True: sliding windows"),
        (QWEN2, {"layer_types": ["full_attention", "sliding_attention"]}, "holds 'sliding_attention'"),
        (QWEN2, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "type 'yarn': not in this family"),
        (QWEN2, {"rope_scaling": "yarn"}, "rope_scaling='yarn' is no mapping"),
        (QWEN2, {"vocab_size": "32"}, "vocab_size='32' is no whole number"),
        (QWEN2, {"rope_theta": "big"}, "rope_theta='big' is no number"),
        (QWEN3, {"attention_bias": True}, "attention_bias=True: other biases"),
        (QWEN3, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (MOE, {"mlp_only_layers": [0]}, r"mlp_only_layers=\[0\]: layers without experts"),
        (MOE, {"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        (LLAMA, {"mlp_bias": True}, "mlp_bias=True"),
        (LLAMA, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic': only llama3"),
        (LLAMA, {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor is missing"),
        (LLAMA, {"rope_scaling": {**RULE, "factor": 0}}, "factor=0 must be above 0"),
        (LLAMA, {"rope_scaling": {**RULE, "low_freq_factor": 4.0}}, "no ramp"),
        (LLAMA, {"rope_scaling": {**RULE, "original_max_position_embeddings": 0}}, "is not between 1 and"),
        (LLAMA, {"rope_scaling": {"rope_type": ["llama3"]}}, "only llama3"),
        (QWEN2, {"rope_scaling": {"factor": 4.0}}, "rope_scaling sets factor and names no rope_type"),
        (QWEN2, {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "of full_attention: one rule"),
        (LLAMA, {"rope_parameters": {"rope_theta": "x"}}, "rope_theta='x' is no number"),
        (LLAMA, {"rope_parameters": {"rope_theta": math.nan}}, "rope_theta=nan is not a finite number"),
        (LLAMA, {"rope_theta": math.nan}, "rope_theta=nan is not a finite number"),
        (LLAMA, {"rope_theta": math.inf}, "rope_theta=inf is not a finite number"),
        (LLAMA, {"rope_theta": 0}, "rope_theta=0 must be above 0"),
        (V3, {"rope_theta": -1e4}, "rope_theta=-10000 must be above 0"),
        (QWEN2, {"rms_norm_eps": math.nan}, "rms_norm_eps=nan is not a finite number"),
        (QWEN2, {"rms_norm_eps": 0}, "rms_norm_eps=0 must be above 0 and at most 1"),
        (QWEN2, {"rms_norm_eps": True}, "rms_norm_eps=True is no number"),
        (V3, {"rms_norm_eps": 1e3}, "rms_norm_eps=1000 must be above 0 and at most 1"),
        (QWEN2, {"initializer_range": math.inf}, "initializer_range=inf is not a finite number"),
        (QWEN2, {"vocab_size": 0}, "vocab_size=0 is not between 1"),
        (QWEN2, {"vocab_size": 10**5000}, "vocab_size=a number of more than 80 digits is no whole number"),
        (QWEN2, {"num_hidden_layers": 10**7}, "num_hidden_layers=10000000 is not between 1 and 10,000"),
        (QWEN2, {"num_hidden_layers": True}, "num_hidden_layers=True is no whole number"),
        (QWEN2, {"num_attention_heads": 0}, "num_attention_heads=0 is not between 1"),
        (QWEN2, {"num_key_value_heads": 3}, "num_attention_heads=4 is no multiple of num_key_value_heads=3"),
        (QWEN2, {"hidden_size": 18, "head_dim": None}, "hidden_size=18 is no multiple of"),
        (QWEN3, {"head_dim": 5}, "head_dim=5 is odd"),
        (QWEN2, {"tie_word_embeddings": "false"}, "tie_word_embeddings='false' is neither true nor false"),
        (QWEN2, {"layer_types": 5}, "layer_types holds '5'"),
        (QWEN2, {"layer_types": [{}, None]}, "layer_types holds"),
        (MOE, {"num_experts_per_tok": 9}, "num_experts_per_tok=9 of 4 experts"),
        (MOE, {"norm_topk_prob": 1}, "norm_topk_prob=1 is neither"),
        (V3, {"n_group": 3, "topk_group": 2}, "n_group=3 and topk_group=2 of n_routed_experts=8: no equal"),
        (V3, {"n_group": 2, "topk_group": 4, "num_experts_per_tok": 8}, "n_group=2 and topk_group=4"),
        (V3, {"num_experts_per_tok": 16, "topk_group": 8, "n_group": 8}, "tok=16 of n_routed"),
        (V3, {"qk_rope_head_dim": 5}, "qk_rope_head_dim=5 is odd"),
        (V3, {"routed_scaling_factor": math.nan}, "routed_scaling_factor=nan"),
        (V3, {"rope_scaling": {"type": "yarn", "factor": math.nan}}, "factor=nan is not a finite number"),
        (V3, {"rope_scaling": {"type": "yarn", "factor": 4, "beta_slow": 0}}, "beta_slow=0 must be above 0"),
        (V3, {"n_routed_experts": 0}, "n_routed_experts is missing or 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused_by_name(family, changes, words):
    with pytest.raises(ConfigError, match=words):
        read(family, **changes)


def test_all_refusals_come_at_once():
    with pytest.raises(ConfigError, match=r"hidden_act.*norm_topk_prob"):
        read(V3, hidden_act="gelu", norm_topk_prob=False)


@pytest.mark.parametrize("key", ["q_lora_rank", "n_group", "topk_group", "first_k_dense_replace"])
def test_a_key_whose_absence_means_v3_s_own_value_must_be_written_out(key):
    config = V3.to_hf()
    del config[key]
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        DeepseekV3.from_hf(HfConfig(config))


def test_groups_that_are_all_chosen_limit_nothing():
    found = read(V3, n_group=4, topk_group=4)
    assert (found.num_expert_groups, found.groups_per_token) == (None, None)


@pytest.mark.parametrize(
    ("given", "scales"),
    [
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, (1.0, 1.0)),
        ({"mscale": 0.7, "mscale_all_dim": 0.5}, (0.7, 0.5)),
        ({}, (1.0, 0.0)),
        ({"mscale": 0.7}, (1.0, 0.0)),  # transformers takes mscale only beside mscale_all_dim
    ],
)
def test_yarn_scales_are_those_that_transformers_computes_with(given, scales):
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, **given}
    found = read(V3, rope_scaling=yarn).yarn
    assert (found.mscale, found.mscale_all_dim) == scales


def test_only_a_family_that_reads_the_share_may_turn_a_part_of_each_head():
    spellings = (
        {"partial_rotary_factor": 0.25, "rope_theta": 1e6},
        {"rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "default"}},
    )
    for values in spellings:
        config = HfConfig(values)
        assert (config.rotated_share(0.5), config.rope(1e4, partial=True)) == (0.25, (1e6, None))
        assert config.refusals == []
        config.rope(1e4)
        assert config.refusals == ["partial_rotary_factor: these families rotate whole heads"]
    assert HfConfig({}).rotated_share(0.5) == 0.5
