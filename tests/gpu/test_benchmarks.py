"""The GPU benchmarks on a tiny model: that they run and count right; the speeds mean nothing here."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import _setting, decode, fp8_loss, grpo_step, peaks, proxy, rollout, rows, train
from benchmarks.grpo_step import Work
from megatron_r1.backend.model.precision import Precision, precision_options, transformer_engine_available
from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.models.flops import token_cost
from tests.gpu import small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rank")]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_setting, "SIZES", small.FAMILIES)
    monkeypatch.setattr(_setting, "RESULTS", tmp_path)
    monkeypatch.setitem(_setting.PEAK, _setting.device_name(), {"bf16": 1e12})


@pytest.mark.parametrize("size", sorted(small.FAMILIES))
def test_training_is_measured(size: str):
    found = train.measure(size, "bf16", sequence_length=64, sequences=2, warmup=1, steps=1)
    assert found.tokens_per_s > 0
    flops = token_cost(small.FAMILIES[size]).training_flops(64)
    assert found.mfu == pytest.approx(found.tokens_per_s * flops / 1e12)


@pytest.mark.parametrize("size", sorted(small.FAMILIES))
def test_sampling_is_measured(size: str):
    found = rollout.measure(size, prompts=2, group_size=2, prompt_length=8, new_tokens=4)
    assert found.tokens_per_s > 0


def test_the_devices_peaks_are_measured():
    assert peaks.best_product(((64, 64, 64), (64, 128, 32)), times=2) > 0
    assert peaks.bandwidth(4096, times=2) > 0


def test_the_rows_of_the_proxy_are_kept_as_they_are_measured(monkeypatch: pytest.MonkeyPatch):
    tiny = {"SIZE": "v3", "LENGTH": 64, "SEQUENCES": 2, "TOKENS_PER_PACK": 128, "STEPS": 1}
    for name, value in tiny.items():
        monkeypatch.setattr(proxy, name, value)
    few = decode.measure
    monkeypatch.setattr(
        decode, "measure", lambda policy: few(policy, rows=4, prompt_length=8, new_tokens=(1, 9), times=1)
    )
    speed = proxy.bf16_rows(product=1e12, memory=1e9)
    proxy.fp8_row(beside=speed, product=1e12)
    kept = [json.loads(line) for line in (_setting.RESULTS / rows.FILE).read_text().splitlines()]
    decoding = ["decode", "decode_graphs", "decode_fp8"]
    assert [row["name"] for row in kept] == ["bf16_training", *decoding, "fp8_training"]
    assert kept[3]["found"] == pytest.approx(
        kept[2]["detail"]["seconds_a_step"] / kept[3]["detail"]["seconds_a_step"]
    )
    flops = token_cost(small.FAMILIES["v3"]).training_flops(64)
    assert kept[0]["found"] == pytest.approx(speed * flops / 1e12)
    step = kept[1]["detail"]
    read = decode.bytes_a_step(small.FAMILIES["v3"], rows=4, length=8 + 5)
    assert kept[1]["found"] == pytest.approx(read / 1e9 / step["seconds_a_step"])
    if device().type == "cpu":
        assert kept[-1]["found"] is None
        assert "needs a CUDA device" in kept[-1]["why"]


TINY_STEP = Work(
    questions=2, group=2, prompt=6, limit=8, mean=4.0, vocabulary=small.VOCABULARY, their_rows=4, rounds=1
)


@pytest.fixture
def tiny_step(monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.setattr(grpo_step, "SIZE", "qwen2")
    monkeypatch.setitem(
        small.FAMILIES, "qwen2", small.FAMILIES["qwen2"].model_copy(update={"tie_embeddings": True})
    )
    return TINY_STEP


def test_a_grpo_step_is_measured_beside_trls(tiny_step: Work):
    pytest.importorskip("trl", reason="TRL is not on every GPU machine; the row says so there")
    row = grpo_step.measure(tiny_step)
    assert row.found == pytest.approx(row.detail["trl_s"] / row.detail["ours_s"], abs=0.01)
    assert row.detail["log_probs_apart"] < 0.05


def test_without_trl_our_side_alone_is_kept_with_the_reason(tiny_step: Work, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grpo_step, "NEEDED", ("trl", "no_such_library"))
    row = grpo_step.measure(tiny_step)
    assert row.found is None
    assert row.why == "no_such_library not installed here, so that only our side was measured"
    assert row.detail["ours_s"] > 0


def test_losses_of_two_formats_are_compared_over_the_same_text(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"SIZE": "v3", "LR": 3e-3, "WARMUP": 2, "STATES": 32, "SUCCESSORS": 2}.items():
        monkeypatch.setattr(fp8_loss, name, value)
    text = fp8_loss.markov_text(12, 2, 32)
    engine = transformer_engine_available()  # whose attention takes no packs in fp32
    beside, other = ("bf16", "fp8_current") if engine else ("fp32", "bf16")
    exact = fp8_loss.losses(beside, text)
    apart = fp8_loss.keep(other, fp8_loss.losses(other, text), exact)
    assert exact[-1] < exact[0] - 0.5  # it learns, so that a small difference says something
    assert 0 < apart.largest < (0.03 if engine else 0.01)
    (kept,) = map(json.loads, (_setting.RESULTS / "gpu_fp8_loss.jsonl").read_text().splitlines())
    assert kept["recipe"] == other
    assert kept["largest"] == apart.largest


@pytest.mark.skipif(device().type == "cuda", reason="a GPU may have it")
def test_without_fp8_the_row_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fp8_loss, "losses", _losses_in_bf16_only)
    monkeypatch.setattr(fp8_loss, "markov_text", lambda *_: None)
    monkeypatch.setattr(_setting, "start", lambda: None)
    fp8_loss.main()
    (kept,) = map(json.loads, (_setting.RESULTS / rows.FILE).read_text().splitlines())
    assert kept["found"] is None
    assert "needs a CUDA device" in kept["why"]


def _losses_in_bf16_only(precision: Precision, _: object) -> list[float]:
    precision_options(precision)
    return [1.0]
