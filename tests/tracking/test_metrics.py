import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from megatron_r1 import registry
from megatron_r1.errors import ConfigError, DataError, GateError
from megatron_r1.run.stage_runner import StageJournal
from megatron_r1.tracking.jsonl import JsonLines, read_metrics
from megatron_r1.tracking.metrics import METRICS, Metric, describe, metrics_page, require_valid, rows
from megatron_r1.tracking.tracker import StageInfo
from tests.run.toy_run import Learn
from tests.stages.fake_policy import FakePolicy, FakeReplicas


def other_rank() -> FakePolicy:
    return FakePolicy(replicas=FakeReplicas(index=1, count=1))


DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def steps(path):
    return [record["step"] for record in read_metrics(path)]


def test_only_the_main_rank_writes_files(tmp_path):
    stage = StageJournal("zero", tmp_path, other_rank(), stage=Learn(kind="learn"), state={})
    stage.step(1, {"train/kl": 0.5})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("policy", [FakePolicy, other_rank])
def test_a_number_that_is_not_finite_is_refused_by_name_on_every_rank(tmp_path, value, policy):
    stage = StageJournal("zero", tmp_path, policy(), stage=Learn(kind="learn"), state={})
    with pytest.raises(GateError, match=rf"train/grad_norm is {value} at step 7"):
        stage.step(7, {"train/lr": 1e-3, "train/grad_norm": np.float32(value)})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_name_that_the_table_lacks_is_our_mistake(tmp_path):
    with pytest.raises(AssertionError, match="train/rewards"):
        require_valid({"train/rewards": 1.0}, step=1, where="metrics.jsonl")


def test_a_placeholder_stands_for_one_word_and_an_exact_name_wins():
    assert describe("train/reward_format") is METRICS["train/reward_<part>"]
    assert describe("train/reward") is METRICS["train/reward"]
    assert describe("eval/accuracy_zh") is METRICS["eval/accuracy_<language>"]
    assert describe("eval/cons_stderr") is METRICS["eval/<metric>_stderr"]
    assert describe("eval/nonsense_stderr") is None
    assert describe("train/reward_") is None


def test_a_resumed_run_has_each_step_once(tmp_path):
    first = JsonLines(tmp_path)
    for step in (1, 2, 3, 4):
        first.log(step, {"train/loss": float(step)})
    resumed = JsonLines(tmp_path)
    resumed.start(
        StageInfo(run="r", stage="zero", directory=tmp_path, config={}, kept_step=2)
    )  # the checkpoint was of step 2
    resumed.log(3, {"train/loss": 30.0})
    assert [(r["step"], r["train/loss"]) for r in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]


def test_a_line_cut_by_a_kill_is_skipped_and_then_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/kl": 0.1}\n{"step": 2, "train/k')
    assert steps(path) == [1]
    writer = JsonLines(tmp_path)
    writer.start(StageInfo(run="r", stage="zero", directory=tmp_path, config={}, kept_step=1))
    writer.log(2, {"train/kl": 0.2})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(DataError, match=re.escape(f"{path}:2: not JSON")):
        steps(path)


def test_the_page_on_metrics_is_current():
    assert DOCS.read_text() == metrics_page(), "run: python -m megatron_r1.tracking.metrics > docs/metrics.md"


def test_a_plug_in_adds_rows_for_metrics_of_its_own(monkeypatch):
    own = Metric("a plug-in's", "share", "down")
    monkeypatch.setattr(registry, "metric_rows", lambda: [(Path("mine.py"), {"train/of_my_own": own})])
    assert rows()["train/of_my_own"] is own
    assert rows().keys() - METRICS.keys() == {"train/of_my_own"}


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ({"train/loss": Metric("mine", "nats")}, "'train/loss' has a row already"),
        ({"train/reward_mine": Metric("mine", "points")}, "'train/reward_mine' has a row already"),
        ({"mine": Metric("mine", "points")}, "write 'phase/quantity'"),
        ({"train/of_my_own": "points"}, "write 'phase/quantity'"),
    ],
)
def test_rows_that_clash_or_are_none_are_refused_with_the_file(monkeypatch, added, words):
    monkeypatch.setattr(registry, "metric_rows", lambda: [(Path("mine.py"), added)])
    with pytest.raises(ConfigError, match=r"mine\.py: METRICS: ") as error:
        rows()
    assert words in str(error.value)
