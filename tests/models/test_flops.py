import pytest

from megatron_r1.models.deepseek_v3 import DeepseekV3
from megatron_r1.models.flops import token_cost
from megatron_r1.models.qwen2 import Qwen2

TINY = Qwen2(
    family="qwen2",
    vocab_size=100,
    num_layers=2,
    hidden_size=8,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=16,
)
V3 = DeepseekV3(
    family="deepseek_v3",
    vocab_size=129280,
    num_layers=61,
    hidden_size=7168,
    num_attention_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_head_dim=128,
    qk_pos_emb_head_dim=64,
    v_head_dim=128,
    num_dense_layers=3,
    ffn_hidden_size=18432,
    num_experts=256,
    experts_per_token=8,
    moe_ffn_hidden_size=2048,
    num_expert_groups=8,
    groups_per_token=4,
    mtp_layers=1,
)


def test_a_dense_model_by_hand():
    # a layer: q and o 8 x 8, k and v 8 x 4, gate, up and down 8 x 16
    layer = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16
    cost = token_cost(TINY)
    assert cost.weights == 2 * layer + 8 * 100
    assert cost.attention == 2 * 4 * (2 + 2)


def test_training_costs_three_passes_and_half_the_context():
    cost = token_cost(TINY)
    # scores and their sum over values: 2 operations each, over 5 of 10 tokens on average
    assert cost.training_flops(10) == 3 * (2 * cost.weights + 2 * cost.attention * 5)


def test_v3_activates_37_billion_weights_a_token():
    # section 4.2: 37B of 671B, embedding included, which is a look-up and no product here
    assert token_cost(V3).weights == pytest.approx(37e9, rel=0.02)


def test_mtp_adds_a_layer_a_projection_and_a_head():
    added = token_cost(V3, mtp=True).weights - token_cost(V3).weights
    attention = 1536 * (7168 + 128 * 192) + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
    experts = 3 * 7168 * 9 * 2048 + 7168 * 256
    assert added == attention + experts + 2 * 7168 * 7168 + 7168 * 129280
