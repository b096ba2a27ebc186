"""The journal of a stage whose directory does not stay as it was."""

import shutil
from pathlib import Path

import pytest

from megatron_r1.errors import DataError
from megatron_r1.run.stage_runner import StageJournal
from megatron_r1.tracking.jsonl import JsonLines
from megatron_r1.tracking.step_log import read
from tests.run.toy_run import Learn
from tests.stages.fake_policy import FakePolicy


def journal(directory: Path, **state: object) -> StageJournal:
    return StageJournal("base", directory, FakePolicy(), stage=Learn(kind="learn"), state=state)


def test_a_stage_whose_directory_is_removed_ends_in_words_and_writes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "base"
    directory.mkdir()
    stage = journal(directory)
    stage.step(1, {"train/loss": 1.0})
    shutil.rmtree(directory)
    with pytest.raises(DataError, match=r"base: removed while stage base was running, after step 1"):
        stage.step(2, {"train/loss": 1.0})
    with pytest.raises(DataError, match="removed while"):
        stage.checkpoint(2, {})
    assert not directory.exists()


def test_lost_lines_of_metrics_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = JsonLines(tmp_path)
    for step in range(1, 5):
        writer.log(step, {"train/loss": 1.0})
    writer.sync()
    journal(tmp_path, step=4)
    assert not caplog.text
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-3])  # as after a power cut
    journal(tmp_path, step=4)
    assert "ends at step 3, and the stage goes on from step 4: the lines between are lost" in caplog.text
    assert [line["step"] for line in read(path)] == [1, 2, 3]
