"""The GPU benchmarks on a tiny model: that they run and count right; the speeds mean nothing here."""

import pytest

from benchmarks.gpu import _setting, rollout, train
from megatron_r1.models.flops import token_cost
from tests.gpu import small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rank")]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_setting, "SIZES", small.FAMILIES)
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
