"""What the GPU benchmarks count by hand: bytes of a decoding step, the proxy's memory, and its operations."""

import pytest

from benchmarks.gpu import _setting, decode, fp8_loss, rows
from megatron_r1.backend.memory_shards import shards
from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.config.layout import Layout
from megatron_r1.models.deepseek_v3 import DeepseekV3
from megatron_r1.models.flops import token_cost
from megatron_r1.plan.activations import kept

GIB = 2**30
HAND = DeepseekV3(
    family="deepseek_v3", vocab_size=100, num_layers=2, hidden_size=10, num_attention_heads=2,
    q_lora_rank=4, kv_lora_rank=3, qk_head_dim=5, qk_pos_emb_head_dim=2, v_head_dim=6,
    num_dense_layers=1, ffn_hidden_size=20, num_experts=4, experts_per_token=2, moe_ffn_hidden_size=7,
)  # fmt: skip


def test_a_step_reads_every_weight_once_and_all_caches():
    # queries 4 (10 + 2 * 7), keys and values 10 (3 + 2) + 3 * 2 (5 + 6), output 12 * 10
    attention = 96 + 116 + 120
    dense = 3 * 10 * 20
    # of four experts with two a token, three rows meet 4 (1 - (1/2)^3) = 3.5; a shared one; the router
    experts = 3 * 10 * 7 * (3.5 + 1) + 4 * 10
    head = 100 * 10
    cache = 2 * (3 + 2)  # a token
    expected = 2 * (2 * attention + dense + experts + head + 3 * 50 * cache)
    assert decode.bytes_a_step(HAND, rows=3, length=50) == expected


def test_a_dense_models_cache_is_its_groups_keys_and_values():
    family = _setting.SIZES["dense_0.5b"]
    assert decode.cached_a_token(family) == 24 * 2 * 2 * 64


@pytest.fixture(scope="module")
def proxy() -> DeepseekV3:
    family = _setting.SIZES["v3_proxy"]
    assert isinstance(family, DeepseekV3)
    return family


def test_the_proxy_is_what_is_asked_for(proxy: DeepseekV3):
    assert proxy.hidden_size >= 2048
    assert proxy.num_experts >= 64
    assert proxy.experts_per_token == 8


def test_the_proxys_operations_are_those_of_a_count_by_hand(proxy: DeepseekV3):
    query = 768 * (2048 + 16 * 192)
    attention = query + 2048 * (512 + 64) + 512 * 16 * (128 + 128) + 16 * 128 * 2048
    layer = 3 * 2048 * 1408 * (8 + 1) + 64 * 2048
    weights = 6 * attention + 3 * 2048 * 8192 + 5 * layer + 32768 * 2048
    assert token_cost(proxy).weights == weights
    # causal: half of 4,096 keys; two products over keys of 192 and values of 128
    products = 2 * weights + 2 * 6 * 16 * (192 + 128) * 2048
    assert token_cost(proxy).training_flops(4096) == 3 * products


@pytest.mark.parametrize("engine", [True, False])
def test_the_proxy_trains_within_an_h100(proxy: DeepseekV3, engine: bool):
    shard = shards(proxy, Layout(), ModelOptions(precision="bf16"))[0]
    held = shard.parameter_bytes + shard.gradient_bytes + 12 * shard.optimizer_elements
    assert held / GIB == pytest.approx(5.7 + 11.4 + 34.3, abs=0.1)
    each = kept(proxy.transformer_config(), vocab_size=32768, dtype_bytes=2, recompute="none", engine=engine)
    activations = 8192 * (each.dense + 5 * each.experts)
    assert activations / GIB == pytest.approx(6.7 if engine else 11.4, abs=0.1)
    logits, fp8 = 8192 * 32768 * 10, 2 * shard.parameters if engine else 0
    assert held + activations + logits + fp8 < 70 * GIB


def _row(name: str, found: float | None, why: str = "") -> rows.Row:
    return rows.Row(name=name, what="", beside="", asked=0.0, unit="", found=found, why=why)


def test_the_table_says_of_every_row_what_was_found_or_why_not():
    found = [_row("bf16_training", 0.412), _row("decode", None, "it broke"), _row("grpo_step", 3.25)]
    lines = rows.table(found).splitlines()[2:]
    assert [line.split(" | ")[2:] for line in lines] == [
        ["at least 40%", "41% |"],
        ["at least 1.30x", "not measured |"],
        ["at least 50%", "not measured: it broke |"],
        ["at least 50%", "not measured |"],
        ["at least 1.00x", "not measured |"],
        ["at least 3.00x", "3.25x |"],
        ["at most 0.250%", "not measured |"],
    ]


def test_curves_are_compared_smoothed_and_relative():
    # smoothed: 4, 3.9 (0.9 * 4 + 0.1 * 3), 3.71; beside it 4, 3.8, 3.62
    apart = fp8_loss.difference([4.0, 3.0, 2.0], [4.0, 2.0, 2.0])
    assert apart.largest == pytest.approx(0.1 / 3.8)
    assert apart.at_end == pytest.approx(0.09 / 3.62)


def test_the_text_is_a_chain_and_its_floor_the_entropy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fp8_loss, "STATES", 16)
    monkeypatch.setattr(fp8_loss, "SUCCESSORS", 2)
    text = fp8_loss.markov_text(5, 4, 50)
    assert text.shape == (5, 4, 51)
    followers = {int(s): set(text[..., 1:][text[..., :-1] == s].tolist()) for s in text.unique()}
    assert max(map(len, followers.values())) == 2
    assert fp8_loss.entropy() == pytest.approx(0.6365, abs=1e-4)  # of 2/3 and 1/3
