"""R1's chain on a real rank: what RL samples teaches the base and a student, and as if never interrupted."""

import json
import signal
from pathlib import Path

import pytest

from tests.end_to_end.micro_run import (
    R1_CONFIG,
    lines,
    log_of,
    metrics,
    run,
    start,
    tensor_digests,
    wait_until,
)

pytestmark = pytest.mark.slow


def artifact(folder: Path, stage: str) -> dict:
    return json.loads((folder / stage / "artifact.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "micro"
    run(folder, config=R1_CONFIG)
    return folder


def test_lineage_names_weights_and_data(whole):
    inputs = {name: list(artifact(whole, name)["inputs"]) for name in ("rejection", "sft", "distilled")}
    kept = "rejection/data/shard_00000.jsonl"
    assert inputs == {
        "rejection": ["zero", "tokenizer.model"],
        "sft": ["base", "rejection", "tokenizer.model", kept],
        "distilled": ["rejection", "tokenizer.model", kept],
    }
    rejection = artifact(whole, "rejection")
    assert rejection["checkpoint"] is None
    assert list(rejection["outputs"]) == ["data/shard_00000.jsonl"]
    assert artifact(whole, "distilled")["config"]["model"]["family"] == "qwen2"
    assert artifact(whole, "measure_student")["config"]["model"]["family"] == "qwen2"  # that of its weights
    assert (whole / "report.html").is_file()


def test_every_sample_is_accounted_for(whole):
    card = json.loads((whole / "rejection" / "data_card.json").read_text())
    assert card["sampled"] == 1600 == card["kept"] + sum(card["dropped"].values())
    assert len(lines(whole / "rejection" / "data" / "shard_00000.jsonl")) == card["kept"]
    assert len(lines(whole / "rejection" / "samples.jsonl")) == 1600


def test_fine_tuning_learns_the_kept_answers(whole):
    losses = [line["train/loss"] for line in metrics(whole / "sft")]
    kept = len(lines(whole / "rejection" / "data" / "shard_00000.jsonl"))
    assert len(losses) == -(-5 * kept // 8)  # 2.5 epochs in steps of 4
    assert sum(losses[-3:]) < sum(losses[:3])


def test_a_student_comes_near_to_a_teacher_of_another_family_on_its_own_samples(whole):
    steps = metrics(whole / "on_policy")
    first, last = (sum(line["train/kl"] for line in part) / 4 for part in (steps[:4], steps[-4:]))
    assert last < 0.7 * first
    assert artifact(whole, "on_policy")["inputs"].keys() == {"distilled", "zero", "tokenizer.model"}
    assert max(line["rollout/drift"] for line in steps) < 1.001  # sampler and trainer are one model


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    """The same run, asked to end in rejection sampling and again in fine-tuning."""
    folder = tmp_path_factory.mktemp("interrupted") / "micro"
    for stage, message in (("rejection", " shards are written; run"), ("sft", "stage sft is saved at step")):
        process = start(folder, config=R1_CONFIG)
        wait_until(lambda at=folder / stage: bool(lines(at / "metrics.jsonl")), process=process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 75, log_of(folder).read_text()
        assert message in log_of(folder).read_text()
        assert not (folder / stage / "artifact.json").exists()
    run(folder, config=R1_CONFIG)
    return folder


def test_an_interrupted_chain_ends_in_the_same_artifacts(whole, interrupted):
    for stage in ("rejection", "sft", "distilled", "measure_student", "on_policy"):
        ours, theirs = artifact(interrupted, stage), artifact(whole, stage)
        assert ours["outputs"] == theirs["outputs"]
        assert ours["inputs"] == theirs["inputs"]
        assert metrics(interrupted / stage) == metrics(whole / stage)
    for stage in ("sft", "distilled"):
        assert tensor_digests(interrupted / stage) == tensor_digests(whole / stage)


def test_other_sampling_asks_for_the_stage_to_be_run_again(whole):
    output = run(whole, "stages.rejection.samples=2", config=R1_CONFIG, expect=2)
    assert "stage rejection is finished" in output
    assert "stages.rejection.samples: 8 then, 2 now" in output
