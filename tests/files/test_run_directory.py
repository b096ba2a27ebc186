"""A run's records, written and read back; the damaged ones in words."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_r1.errors import DataError
from megatron_r1.files.run_directory import (
    Artifact,
    Begun,
    heartbeats,
    note_saved,
    rank_heartbeat,
    read_artifact,
    read_begun,
    read_resolved,
)

CONFIG = {"stage": {"optim": {"lr": 0.001}}, "seed": 7}
INPUTS = {"base": "1", "data/x.jsonl": {"size": 1792, "blake3": "a"}}
DONE = Artifact("zero", "grpo", CONFIG, "ab", INPUTS, "checkpoint/step_00000002", {"a": 1.0})


def test_an_artifact_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_artifact(tmp_path) is None
    DONE.write(tmp_path)
    assert read_artifact(tmp_path) == DONE


ARTIFACTS: dict[bytes | str, str] = {
    b"": "not JSON: it is empty",
    b"\0" * 50: "is NUL",
    b"[]": "a JSON object is needed, not an array",
    b"[" * 9999: "nested deeper",
    b'{"stage"': "not JSON: Expecting",
    b"{}": "not what a finished stage writes: checkpoint, config, .* is missing",
    '{"more": 1}': "more is not known",
    '{"inputs": []}': r"inputs is \[\]",
    '{"metrics": null}': "metrics is None",
    '{"checkpoint": "../../base"}': "checkpoint is '../../base', which is no folder of the stage",
    '{"checkpoint": "/etc"}': "checkpoint is '/etc'",
    '{"checkpoint": 3}': "checkpoint is 3",
    '{"outputs": 3}': "outputs is 3",
}


@pytest.mark.parametrize("content", ARTIFACTS)
def test_a_damaged_artifact_is_said_in_words_with_the_remedy(tmp_path: Path, content: bytes | str) -> None:
    if isinstance(content, str):
        text = json.dumps({**asdict(DONE), **json.loads(content)}).encode()
    else:
        text = content
    (tmp_path / "artifact.json").write_bytes(text)
    with pytest.raises(
        DataError, match=rf"artifact\.json: .*{ARTIFACTS[content]}.*remove it: the stage then"
    ):
        read_artifact(tmp_path)


def test_an_artifact_that_is_a_dangling_link_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "artifact.json").symlink_to("/nowhere")
    with pytest.raises(DataError, match="a link to /nowhere"):
        read_artifact(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"config": {}, "inputs": [], "saved": null}'])
def test_a_damaged_note_of_the_beginning_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "begun.json").write_text(text)
    with pytest.raises(DataError, match=r"begun\.json: .*restore it, or remove it to go on"):
        read_begun(tmp_path)


def test_the_note_keeps_how_far_checkpoints_came(tmp_path: Path) -> None:
    assert read_begun(tmp_path) is None
    note_saved(tmp_path, 2)  # an older version began the stage
    assert read_begun(tmp_path) is None
    Begun(CONFIG, INPUTS).write(tmp_path)
    note_saved(tmp_path, 4)
    assert read_begun(tmp_path) == Begun(CONFIG, INPUTS, 4)


def test_a_resolved_configuration_is_read_as_plain_values(tmp_path: Path) -> None:
    assert read_resolved(tmp_path) == {}
    (tmp_path / "resolved.yaml").write_text("seed: 7\nname: no\n")
    assert read_resolved(tmp_path) == {"seed": 7, "name": "no"}


@pytest.mark.parametrize(
    ("content", "why"), [(b"a: [", "not YAML"), (b"- a", "not the mapping"), (b"a: \xff", "not YAML")]
)
def test_a_damaged_configuration_is_said_in_words(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "resolved.yaml").write_bytes(content)
    with pytest.raises(DataError, match=rf"resolved\.yaml: {why}"):
        read_resolved(tmp_path)


def test_heartbeats_are_found_by_rank_and_no_log_is_taken_for_one(tmp_path: Path) -> None:
    for rank in (0, 11):
        rank_heartbeat(tmp_path, rank).write_text("{}")
    for name in ("rank3.log", "rank4.json.new", "progress.json"):
        (tmp_path / name).touch()
    assert heartbeats(tmp_path) == {0: tmp_path / "rank0.json", 11: tmp_path / "rank11.json"}
