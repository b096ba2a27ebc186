"""`status` of a run that `megatron-r1 run` started: what runs, what stopped, and how far."""

import json
import re
import time

import pytest

from megatron_r1.files.run_directory import LOCK
from megatron_r1.launch.slurm.status import status
from megatron_r1.runtime import run_lock

RESOLVED = """
name: toy
layout: {ranks: 2}
stages:
  base: {kind: pretrain, steps: 6}
  sft: {kind: sft, steps: 0, epochs: 2.0}
  measure: {kind: evaluate}
"""


@pytest.fixture
def run_dir(tmp_path):
    """base is done, sft is at step 332 of its epochs."""
    (tmp_path / "resolved.yaml").write_text(RESOLVED)
    for stage, step in (("base", 6), ("sft", 332)):
        (tmp_path / stage).mkdir()
        line = json.dumps({"step": step, "train/loss": 1.0, "time/step_s": 2.0})
        (tmp_path / stage / "metrics.jsonl").write_text(line + "\n")
    (tmp_path / "base" / "artifact.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    beat = {"stage": "sft", "step": 332, "time": time.time() - 5}
    (tmp_path / "logs" / "rank0.json").write_text(json.dumps(beat))
    place = {"label": "sft", "step": 332, "total": 400, "tail": ""}
    (tmp_path / "logs" / "progress.json").write_text(json.dumps(place))
    return tmp_path


def rows(run_dir) -> dict[str, str]:
    return {line.split()[0]: " ".join(line.split()) for line in status(run_dir).splitlines()[2:]}


def test_a_running_stage_says_so_with_the_steps_of_its_epochs(run_dir):
    with run_lock.hold(run_dir):
        found = rows(run_dir)
    assert found["base"] == "base - done 6/6"
    expected = r"sft - running \(pid \d+ on \S+\), last step \d+ s ago 332/400 0:02:16"
    assert re.fullmatch(expected, found["sft"])
    assert found["measure"] == "measure - not begun"


def test_a_stopped_stage_is_not_said_to_run(run_dir):
    assert rows(run_dir)["sft"] == "sft - stopped 332/400"
    killed = {"host": run_lock.socket.gethostname(), "pid": 2**22 + 1, "since": ""}  # above the largest pid
    (run_dir / LOCK).write_text(json.dumps(killed))
    assert rows(run_dir)["sft"] == "sft - stopped 332/400"


def test_steps_of_epochs_that_nobody_knows_are_left_out(run_dir):
    (run_dir / "logs" / "progress.json").write_text("{}")
    assert rows(run_dir)["sft"] == "sft - stopped 332"
    (run_dir / "sft" / "artifact.json").write_text("{}")
    assert rows(run_dir)["sft"] == "sft - done 332/332"
