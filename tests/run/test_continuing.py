"""What an earlier start left, made of other things: in words, and never silently begun anew."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_r1.errors import CheckpointError, ConfigError, DataError
from megatron_r1.files.run_directory import Artifact, Begun
from megatron_r1.run import continuing
from megatron_r1.run.lineage import digest_of
from megatron_r1.stages.base import StageConfig

CONFIG = {"stage": {"optim": {"lr": 0.001}}, "seed": 7}
OTHER = {"stage": {"optim": {"lr": 0.002}}, "seed": 7}
FILE = {"size": 1792, "blake3": "a"}
INPUTS = {"base": "1", "data/x.jsonl": FILE}
SHORTER = {"base": "1", "data/x.jsonl": {"size": 1344, "blake3": "b"}}
DONE = Artifact("zero", "grpo", CONFIG, digest_of(CONFIG), INPUTS, "checkpoint/step_00000002", {"a": 1.0})
ZERO = Path("runs/x/zero")
SECTION = StageConfig(kind="grpo")


def finished(inputs: dict[str, Any], config: dict[str, Any] = CONFIG, done: Artifact = DONE) -> list[str]:
    return continuing.require_finished_so(ZERO, done, config, inputs, section=SECTION)


def test_a_finished_stage_counts_only_with_its_configuration_and_inputs() -> None:
    assert finished(INPUTS) == []
    changed = (
        r"zero is finished in runs/x/zero, but data/x\.jsonl changed \(1,792 bytes then, 1,344 now\) since"
    )
    with pytest.raises(DataError, match=rf"{changed}; use --from zero"):
        finished(SHORTER)
    with pytest.raises(ConfigError, match="base changed since"):
        finished({**INPUTS, "base": "2"})
    with pytest.raises(ConfigError, match=r"stages\.zero\.optim\.lr: 0\.001 then, 0\.002 now"):
        finished(INPUTS, OTHER)


def test_a_finished_stage_of_an_older_version_counts_with_a_warning() -> None:
    (warning,) = finished(INPUTS, done=replace(DONE, inputs={"base": "1"}))
    assert "kept no hashes of its data" in warning
    with pytest.raises(ConfigError, match="base changed"):
        finished(INPUTS, done=replace(DONE, inputs={"base": "2"}))


def begun(then: Begun | None, *, goes_on: bool = True) -> list[str]:
    return continuing.require_begun_so(ZERO, then, Begun(CONFIG, INPUTS), goes_on=goes_on, section=SECTION)


def test_an_interrupted_stage_goes_on_only_over_the_same_inputs() -> None:
    assert begun(Begun(CONFIG, INPUTS, 2)) == []
    with pytest.raises(
        DataError, match=r"data/x\.jsonl changed \(1,344 bytes then, 1,792 now\); restore them"
    ):
        begun(Begun(CONFIG, SHORTER, 2))
    with pytest.raises(ConfigError, match="base changed"):
        begun(Begun(CONFIG, {**INPUTS, "base": "2"}, 2))
    (warning,) = begun(Begun(OTHER, INPUTS, 2))
    assert "stages.zero.optim.lr: 0.002 then, 0.001 now" in warning
    (warning,) = begun(None)
    assert "kept no hashes" in warning


def test_where_checkpoints_were_a_stage_never_begins_anew() -> None:
    with pytest.raises(
        CheckpointError, match=r"had checkpoints up to step 4, and none is there.*--from zero"
    ):
        begun(Begun(CONFIG, INPUTS, 4), goes_on=False)
    assert begun(Begun(CONFIG, SHORTER), goes_on=False) == []  # nothing was kept of it
    assert begun(None, goes_on=False) == []
    assert continuing.fell_behind(Begun(CONFIG, INPUTS, 4), 4) == []
    (warning,) = continuing.fell_behind(Begun(CONFIG, INPUTS, 4), 2)
    assert "the checkpoint of step 4 is gone" in warning
