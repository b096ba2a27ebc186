"""Directories of checkpoints: complete or absent. No ranks are needed."""

import json
from pathlib import Path

import pytest

from megatron_r1.backend.checkpoint import files
from megatron_r1.errors import CheckpointError


def write(directory: Path, *, content: str = "tensors") -> Path:
    files.start(directory, json.dumps({"stage": {}}))
    partial = files.partial_of(directory)
    (partial / "__0_0.distcp").write_text(content)
    described = {name: files.describe(partial / name) for name in files.file_names(partial)}
    files.finish(
        directory,
        files.Manifest(
            model={"family": "x"},
            layout={"ranks": 1},
            precision="fp32",
            has_optimizer=True,
            has_reference=False,
            files=described,
        ),
    )
    return directory


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = files.read_manifest(write(tmp_path / "a", content="abc"))
    assert manifest.model == {"family": "x"}
    # printf abc | b3sum
    assert manifest.files["__0_0.distcp"] == {
        "size": 3,
        "blake3": "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
    }
    assert set(manifest.files) == {"__0_0.distcp", files.STATE}


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (5, 30, 200):
        write(files.numbered(tmp_path, step))
    assert files.latest(tmp_path) == tmp_path / "step_00000200"


def test_a_run_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert files.latest(tmp_path) is None
    assert files.latest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("missing", ["manifest.json", "state.json", "__0_0.distcp"])
def test_a_checkpoint_without_one_of_its_files_is_skipped(tmp_path: Path, missing: str) -> None:
    sound = write(files.numbered(tmp_path, 1))
    (write(files.numbered(tmp_path, 2)) / missing).unlink()
    assert files.latest(tmp_path) == sound


def test_a_cut_file_makes_a_checkpoint_incomplete(tmp_path: Path) -> None:
    sound = write(files.numbered(tmp_path, 1))
    (write(files.numbered(tmp_path, 2)) / "__0_0.distcp").write_text("tensor")
    assert files.latest(tmp_path) == sound


def test_a_half_written_directory_is_skipped_and_written_over(tmp_path: Path) -> None:
    sound = write(files.numbered(tmp_path, 1))
    half = files.partial_of(files.numbered(tmp_path, 2))
    half.mkdir()
    (half / "__1_0.distcp").write_text("of an interrupted save")
    assert files.latest(tmp_path) == sound
    written = write(files.numbered(tmp_path, 2))
    assert files.latest(tmp_path) == written
    assert not (written / "__1_0.distcp").exists()


def test_a_checkpoint_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a", content="old")
    write(tmp_path / "a", content="newer")
    assert (tmp_path / "a" / "__0_0.distcp").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write(files.numbered(tmp_path, step))
    files.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000003", "step_00000004"]


def test_pruning_does_not_count_incomplete_ones(tmp_path: Path) -> None:
    for step in (1, 2):
        write(files.numbered(tmp_path, step))
    (write(files.numbered(tmp_path, 3)) / files.MANIFEST).unlink()
    files.prune(tmp_path, keep=1)
    assert files.latest(tmp_path) == tmp_path / "step_00000002"


def test_a_flipped_bit_in_the_manifest_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a") / files.MANIFEST
    path.write_text(path.read_text().replace('"ranks": 1', '"ranks": 3'))
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged, its digest"):
        files.read_manifest(tmp_path / "a")


def test_another_format_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a")
    monkeypatch.setattr(files, "FORMAT", 3)
    with pytest.raises(CheckpointError, match="checkpoint format 2, this version reads 3"):
        files.read_manifest(tmp_path / "a")


def test_a_changed_file_of_the_same_size_is_refused_by_name(tmp_path: Path) -> None:
    manifest = files.read_manifest(write(tmp_path / "a"))
    (tmp_path / "a" / "__0_0.distcp").write_text("Tensors")
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp: damaged"):
        files.check_file(tmp_path / "a", "__0_0.distcp", manifest.files["__0_0.distcp"])


def rewritten(directory: Path, **changes: object) -> Path:
    """A checkpoint whose manifest says something else, with the right digest."""
    content = json.loads((directory / files.MANIFEST).read_text())
    content.pop("digest")
    content = {name: value for name, value in (content | changes).items() if value is not None}
    (directory / files.MANIFEST).write_text(json.dumps({**content, "digest": files._digest(content)}))
    return directory


ENTRY = {"size": 1, "blake3": "0" * 64}
STATE_ENTRY = {"state.json": ENTRY}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {}}, "it names no file at all"),
        ({"files": {"__0_0.distcp": ENTRY}}, "its list of files lacks state.json"),
        *(
            ({"files": {**STATE_ENTRY, name: ENTRY}}, "which is no file of this folder")
            for name in ("../x", "/etc/passwd", "a/../../x", "./x", "a//b", "", "manifest.json", "x\0y")
        ),
        ({"files": {"state.json": {"size": -1, "blake3": "0" * 64}}}, "its size is -1"),
        ({"files": {"state.json": {"size": True, "blake3": "0" * 64}}}, "its size is True"),
        ({"files": {"state.json": {"size": 1, "blake3": "G" * 64}}}, "its BLAKE3 hash is 'GGG"),
        ({"files": {"state.json": [1, 2]}}, "a size and a BLAKE3 hash are needed"),
        ({"files": ["state.json"]}, r"files is \['state.json'\], not a dict"),
        ({"layout": None}, "its keys are"),
        ({"more": 1}, "its keys are"),
        ({"precision": 3}, "precision is 3, not a str"),
        ({"has_optimizer": "yes"}, "has_optimizer is 'yes', not a bool"),
    ],
)
def test_a_manifest_that_this_version_would_not_write_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"manifest\.json: refused, .*{message}.*; take another check"):
        files.read_manifest(rewritten(write(tmp_path / "a"), **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON: it is empty"),
        (b"[]", "a JSON object is needed, not an array"),
        (b"[" * 5000, "not JSON: nested deeper"),
        (b'{"format": NaN}', "NaN is no number of JSON"),
        (b"\0" * 99, "is NUL"),
        (b"{}", "its digest does not match"),
        (b"\x80\x04", "is not UTF-8"),
    ],
)
def test_a_manifest_that_is_none_is_refused_in_words(tmp_path: Path, content: bytes, message: str) -> None:
    (write(tmp_path / "a") / files.MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        files.read_manifest(tmp_path / "a")


def test_files_that_the_manifest_does_not_name_are_refused(tmp_path: Path) -> None:
    directory = write(tmp_path / "a")
    manifest = files.read_manifest(directory)
    files.check_index(directory, manifest)
    for name in ("common.pt", "more/deep.bin", ".hidden"):
        extra = directory / name
        extra.parent.mkdir(exist_ok=True)
        extra.symlink_to("/nowhere")
        with pytest.raises(
            CheckpointError, match=rf"{name}: refused, manifest\.json does not name this file"
        ):
            files.check_listed(directory, manifest)
        extra.unlink()
    files.check_listed(directory, manifest)


def test_the_state_is_read_in_words(tmp_path: Path) -> None:
    directory = write(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"state\.json: refused, it lacks `policy` or `stage`"):
        files.read_state(directory)
    (directory / "state.json").write_text('{"policy": {"version": "1", "optimizer_step": 2}, "stage": {}}')
    with pytest.raises(CheckpointError, match=r"state\.json: refused, its counts are"):
        files.read_state(directory)


def test_pruning_takes_what_interrupted_saves_and_removals_left(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(files.numbered(tmp_path, step))
    (files.numbered(tmp_path, 1) / files.MANIFEST).unlink()  # a removal that was interrupted
    for name in ("step_00000002.old", "step_00000003.tmp", "step_00000009.tmp", "other.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000000").symlink_to("/nowhere")
    files.prune(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other.tmp",
        "step_00000003",
        "step_00000009.tmp",
    ]


def test_a_checkpoint_takes_the_place_of_whatever_bears_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/nowhere")
    write(tmp_path / "a")
    (tmp_path / "b").write_text("a file")
    write(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert files.problem_of(tmp_path / "a") is files.problem_of(tmp_path / "b") is None
