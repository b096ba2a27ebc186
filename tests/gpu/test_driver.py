"""`python -m benchmarks.gpu`: no row is dropped, whatever becomes of the benchmark that owes it."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as driver
from benchmarks.gpu import _setting, rows


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_setting, "RESULTS", tmp_path)


def _reasons() -> dict[str, str]:
    lines = (_setting.RESULTS / rows.FILE).read_text().splitlines()
    return {row["name"]: row["why"] for row in map(json.loads, lines)}


def test_what_fails_or_leaves_nothing_is_said_and_the_rest_goes_on(capfd: pytest.CaptureFixture[str]):
    code = driver.run(
        [
            driver.Benchmark("benchmarks.no_such_benchmark", 60, ("decode",)),
            driver.Benchmark("this", 60, ("grpo_step",)),  # a module that ends well
        ],
        limit=60,
    )
    assert code == 1
    assert "exit code 1" in _reasons()["decode"]
    assert _reasons()["grpo_step"] == "this left no figure"
    assert "not measured: this left no figure" in capfd.readouterr().out


def test_one_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver, "LEAST_S", 0.0)
    assert driver.run([driver.Benchmark("this", 0.001, ("decode",))], limit=60) == 1
    assert _reasons() == {"decode": "stopped after 0 s"}


def test_without_time_nothing_is_started():
    assert driver.run([driver.Benchmark("this", 60, ("fp8_loss",))], limit=1) == 1
    assert _reasons() == {"fp8_loss": "no time was left for it"}


def test_without_a_gpu_nothing_is_run_and_nothing_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("sys.argv", ["benchmarks.gpu"])
    assert driver.main() == 1
    assert rows.size() == 0


def test_all_rows_belong_to_a_benchmark():
    assert {name for one in driver.BENCHMARKS for name in one.rows} == set(rows.ASKED)
