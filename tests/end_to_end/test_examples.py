"""What examples/ shows, run as it stands."""

import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.micro_run import ENVIRONMENT, REPOSITORY, TIMEOUT_S, lines

pytestmark = pytest.mark.slow
EXAMPLES = REPOSITORY / "examples"
RUNS = sorted(path for path in EXAMPLES.glob("*.yaml") if path.stem != "tiny")


def started(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    started("-m", "tests.end_to_end.forked_runs", str(folder), *map(str, RUNS))
    return folder


def artifact(stage: Path) -> dict:
    return json.loads((stage / "artifact.json").read_text())


def test_the_index_names_every_example():
    named = set(re.findall(r"\]\(([\w./]+)\)", (EXAMPLES / "README.md").read_text()))
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"} <= named


def test_a_reward_of_one_s_own_is_paid_and_hashed_into_what_it_decides(runs):
    stage = runs / "own_reward" / "zero"
    parts = [line["parts"] for line in lines(stage / "samples.jsonl")]
    assert parts
    assert all(part["own_reward"]["value"] in (0.0, 1.0, None) for part in parts)
    digest = hashlib.sha256((EXAMPLES / "own_reward.py").read_bytes()).hexdigest()
    assert artifact(stage)["config"]["plugins"]["own_reward.py"] == digest


def test_a_loss_of_one_s_own_trains_and_reports_what_every_loss_does(runs):
    stage = runs / "own_loss" / "zero"
    first, *_ = lines(stage / "metrics.jsonl")
    assert {"train/ratio", "train/entropy", "rollout/drift"} <= first.keys()
    assert 0 <= first["train/capped"] <= 1, "its own, by its row in METRICS"
    assert first["train/grad_norm"] > 0
    assert "train/kl" not in first, "it needs no reference, so none is kept"
    assert artifact(stage)["config"]["stage"]["loss"] == {"kind": "own_loss", "cap": 0.5}
    assert artifact(stage)["config"]["plugins"].keys() == {"arithmetic.py", "own_loss.py"}


def test_a_source_of_one_s_own_is_learnt_from_asked_and_held_out(runs):
    first, *_, last = [line["train/loss"] for line in lines(runs / "own_source" / "base" / "metrics.jsonl")]
    assert last < first
    samples = lines(runs / "own_source" / "zero" / "samples.jsonl")
    assert len(samples) == 32
    assert all("which is larger" in json.dumps(sample) for sample in samples)
    assert artifact(runs / "own_source" / "measure")["metrics"]["eval/accuracy"] >= 0


def test_a_family_of_one_s_own_is_trained_and_sampled_from(runs):
    config = artifact(runs / "own_family" / "base")["config"]
    assert config["model"]["family"] == "own_family"
    assert "own_family.py" in config["plugins"]
    assert "eval/length" in artifact(runs / "own_family" / "measure")["metrics"]


def test_a_tracker_of_one_s_own_gets_what_metrics_jsonl_has(runs):
    stage = runs / "own_tracker" / "base"
    assert not (stage / "tensorboard").exists()
    head, *rows = list(csv.reader((stage / "steps.csv").open(newline="")))
    assert head == ["step", "metric", "value"]
    written = {(line["step"], name): value for line in lines(stage / "metrics.jsonl")
               for name, value in line.items() if name != "step"}  # fmt: skip
    assert {(int(step), name): float(value) for step, name, value in rows} == written
    assert {step for step, _ in written} == {1, 2, 3}
    assert list(artifact(stage)["config"]["plugins"]) == ["arithmetic.py"]  # a tracker decides nothing


def test_a_template_of_one_s_own_is_trained_with_and_hashed_into_what_it_decides(runs):
    config = artifact(runs / "own_template" / "measure")["config"]
    assert config["template"] == "own_template"
    assert "own_template.py" in config["plugins"]
    vocabulary = (runs / "own_template" / "tokenizer.model").read_bytes()
    assert b"[/INST]" in vocabulary


def test_one_s_own_chains_take_the_place_of_the_cold_start_and_one_s_own_questions_are_asked(runs):
    steps = lines(runs / "own_jsonl" / "cold_start" / "metrics.jsonl")
    losses = [step["eval/loss"] for step in steps if "eval/loss" in step]
    assert losses[-1] < losses[0]
    assert artifact(runs / "own_jsonl" / "cold_start")["metrics"]["train/too_long"] == 0
    assert "eval/accuracy" in artifact(runs / "own_jsonl" / "zero")["metrics"]


def test_a_student_from_hugging_face_is_distilled_into_and_loads_again(tmp_path):
    output = started("examples/distill_student.py", str(tmp_path))
    before, after = (float(found) for found in re.findall(r": (\d\.\d\d) nats a token", output))
    assert after < before - 0.5
