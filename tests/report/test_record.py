import os

import pytest

from megatron_r1.errors import DataError
from megatron_r1.files.run_directory import Artifact
from megatron_r1.report.html import write_report
from megatron_r1.report.record import read_run
from megatron_r1.tracking.jsonl import JsonLines


def stage(run_dir, name, *, begun_s, resolved, artifact=None):
    (run_dir / name).mkdir(parents=True)
    path = run_dir / name / "resolved.yaml"
    path.write_text(resolved)
    os.utime(path, (begun_s, begun_s))
    if artifact:
        artifact.write(run_dir / name)


def test_a_stage_comes_after_its_input_whatever_the_clock_says(tmp_path):
    stage(tmp_path, "zero", begun_s=10, resolved="stage: {kind: grpo, init: base}")
    stage(tmp_path, "before", begun_s=40, resolved="stage: {kind: evaluate, init: base}")
    stage(tmp_path, "base", begun_s=50, resolved="stage: {kind: pretrain}")
    assert [record.name for record in read_run(tmp_path)] == ["base", "zero", "before"]


def test_the_configured_order_decides_among_stages_of_one_input(tmp_path):
    chain = "stages: {base: {kind: pretrain}, before: {kind: evaluate}, zero: {kind: grpo, init: base}}"
    for begun_s, name in enumerate(["zero", "before", "base"]):
        stage(tmp_path, name, begun_s=begun_s, resolved=chain)
    records = read_run(tmp_path)
    assert [(record.name, record.kind) for record in records] == [
        ("base", "pretrain"),
        ("before", "evaluate"),
        ("zero", "grpo"),
    ]


def test_a_result_is_the_artifacts_or_else_the_last_one_measured(tmp_path):
    artifact = Artifact("zero", "grpo", {}, "ab", {}, None, {"eval/cons": 0.9})
    stage(tmp_path, "zero", begun_s=1, resolved="", artifact=artifact)
    writer = JsonLines(tmp_path / "zero")
    writer.log(1, {"eval/accuracy": 0.2, "eval/cons": 0.3, "time/step_s": 1.5})
    writer.log(2, {"eval/accuracy": 0.4, "time/step_s": 2.5})
    (record,) = read_run(tmp_path)
    assert [record.result(f"eval/{name}") for name in ("cons", "accuracy", "greedy")] == [0.9, 0.4, None]
    assert (record.seconds, record.num_steps, record.finished) == (4.0, 2, True)


def test_other_folders_are_no_stages_and_a_run_without_any_is_an_error(tmp_path):
    (tmp_path / "logs").mkdir()
    with pytest.raises(DataError, match="no stage here"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="no such run directory"):
        read_run(tmp_path / "typo")


def test_a_damaged_artifact_is_named(tmp_path):
    stage(tmp_path, "base", begun_s=1, resolved="")
    (tmp_path / "base" / "artifact.json").write_text("{")
    with pytest.raises(DataError, match=r"artifact\.json: not JSON"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("resolved.yaml", "a: [", r"resolved\.yaml: not YAML"),
        ("resolved.yaml", "just words", r"resolved\.yaml: not the mapping"),
        ("metrics.jsonl", "[" * 100_000 + "\n", r"metrics\.jsonl:1: not JSON: nested deeper"),
        ("samples.jsonl", '{"step": 1, "id": "a"}\n', r"samples\.jsonl:1: not a sample of this version"),
        ("data_card.json", "[]", r"data_card\.json: a JSON object is needed"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, words):
    stage(tmp_path, "base", begun_s=1, resolved="stages: {base: {kind: grpo}}")
    (tmp_path / "base" / name).write_text(content)
    with pytest.raises(DataError, match=words):
        write_report(tmp_path)


def test_a_page_that_can_not_be_written_says_how_to_write_it_elsewhere(tmp_path):
    stage(tmp_path, "base", begun_s=1, resolved="")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DataError, match=r"report\.html: can't be written \(Is a directory\); name another"):
        write_report(tmp_path)
    out = tmp_path / "page.html"
    assert write_report(tmp_path, out) == out
    assert out.read_text().startswith("<!doctype html>")
