import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_r1.errors import DataError, GateError
from megatron_r1.tracking.metrics import METRICS, MetricsWriter, describe, metrics_page, read_metrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def steps(path):
    return [record["step"] for record in read_metrics(path)]


def test_a_step_is_one_line_of_flat_keys(tmp_path):
    MetricsWriter(tmp_path, is_main=True).write(3, {"train/kl": np.float32(0.5), "rollout/length": 12})
    assert (
        tmp_path / "metrics.jsonl"
    ).read_text() == '{"step": 3, "train/kl": 0.5, "rollout/length": 12.0}\n'


def test_only_the_main_rank_writes_files(tmp_path):
    writer = MetricsWriter(tmp_path, is_main=False)
    writer.write(1, {"train/kl": 0.5})
    writer.truncate_after(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("is_main", [True, False])
def test_a_number_that_is_not_finite_is_refused_by_name_on_every_rank(tmp_path, value, is_main):
    with pytest.raises(GateError, match=rf"train/grad_norm is {value} at step 7"):
        MetricsWriter(tmp_path, is_main=is_main).write(7, {"train/lr": 1e-3, "train/grad_norm": value})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_name_that_the_table_lacks_is_our_mistake(tmp_path):
    with pytest.raises(AssertionError, match="train/rewards"):
        MetricsWriter(tmp_path, is_main=True).write(1, {"train/rewards": 1.0})


def test_a_placeholder_stands_for_one_word_and_an_exact_name_wins():
    assert describe("train/reward_format") is METRICS["train/reward_<part>"]
    assert describe("train/reward") is METRICS["train/reward"]
    assert describe("eval/accuracy_zh") is METRICS["eval/accuracy_<language>"]
    assert describe("eval/cons_stderr") is METRICS["eval/<metric>_stderr"]
    assert describe("eval/nonsense_stderr") is None
    assert describe("train/reward_") is None


def test_a_resumed_run_has_each_step_once(tmp_path):
    first = MetricsWriter(tmp_path, is_main=True)
    for step in (1, 2, 3, 4):
        first.write(step, {"train/loss": float(step)})
    resumed = MetricsWriter(tmp_path, is_main=True)
    resumed.truncate_after(2)  # the checkpoint was of step 2
    resumed.write(3, {"train/loss": 30.0})
    assert [(r["step"], r["train/loss"]) for r in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]


def test_tensorboard_reads_each_step_of_a_resumed_run_once(tmp_path):
    first = MetricsWriter(tmp_path, is_main=True)
    for step in (1, 2, 3, 4):
        first.write(step, {"train/loss": float(step)})
    resumed = MetricsWriter(tmp_path, is_main=True)
    resumed.truncate_after(2)
    resumed.write(3, {"train/loss": 30.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_line_cut_by_a_kill_is_skipped_and_then_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/kl": 0.1}\n{"step": 2, "train/k')
    assert steps(path) == [1]
    writer = MetricsWriter(tmp_path, is_main=True)
    writer.truncate_after(1)
    writer.write(2, {"train/kl": 0.2})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(DataError, match=re.escape(f"{path}:2: not JSON")):
        steps(path)


def test_a_dead_tensorboard_writer_warns_once_and_the_run_goes_on(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    writer = MetricsWriter(tmp_path, is_main=True)
    with pytest.warns(UserWarning, match="TensorBoard events stop at step 1"):
        writer.write(1, {"train/kl": 0.1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer.write(2, {"train/kl": 0.2})
    assert steps(writer.path) == [1, 2]


def test_the_page_on_metrics_is_current():
    assert DOCS.read_text() == metrics_page(), "run: python -m megatron_r1.tracking.metrics > docs/metrics.md"
