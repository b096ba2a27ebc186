"""What a kill leaves has one way on, and a damaged checkpoint is never passed over without a word."""

import shutil
from pathlib import Path

import pytest

from megatron_r1.backend.checkpoint import choice, files
from megatron_r1.errors import CheckpointError
from tests.backend.checkpoint.test_files import write


def named(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_that_lacked_only_its_name_gets_it(tmp_path: Path) -> None:
    newest = write(files.numbered(tmp_path, 2), content="new")
    newest.rename(files.partial_of(newest))
    (note,) = choice.recover(tmp_path)
    assert "step_00000002: was written in full when its save was interrupted" in note
    assert named(tmp_path) == ["step_00000002"]


def test_between_the_two_renames_the_new_one_is_taken_and_without_it_the_old(tmp_path: Path) -> None:
    write(tmp_path / "a", content="new").rename(tmp_path / "step_00000002.tmp")
    write(tmp_path / "b", content="old").rename(tmp_path / "step_00000002.old")
    choice.recover(tmp_path)
    assert (tmp_path / "step_00000002" / "__0_0.distcp").read_text() == "new"
    files.remove(tmp_path / "step_00000002")
    choice.recover(tmp_path)
    assert (tmp_path / "step_00000002" / "__0_0.distcp").read_text() == "old"


def test_an_unfinished_save_is_left_to_be_written_over(tmp_path: Path) -> None:
    write(files.numbered(tmp_path, 1))
    half = write(files.numbered(tmp_path, 2))
    (half / files.MANIFEST).unlink()
    half.rename(files.partial_of(half))
    shutil.copytree(tmp_path / "step_00000001", tmp_path / "step_00000001.tmp")
    assert choice.recover(tmp_path) == []
    assert named(tmp_path) == ["step_00000001", "step_00000001.tmp", "step_00000002.tmp"]


def cut(directory: Path) -> None:
    (directory / "__0_0.distcp").write_text("tensor")


def emptied(directory: Path) -> None:
    files.remove(directory)
    directory.mkdir()


def dangling(directory: Path) -> None:
    files.remove(directory)
    directory.symlink_to("/nowhere")


def replaced_by_a_file(directory: Path) -> None:
    files.remove(directory)
    directory.write_text("")


DAMAGES = {
    cut: r"__0_0\.distcp: 6 bytes, 7 were written",
    emptied: r"no complete checkpoint, manifest\.json is missing",
    dangling: "a link to /nowhere, which is not there",
    replaced_by_a_file: "a file, not the folder of a checkpoint",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items())
def test_a_damaged_newest_is_named_with_the_one_before(tmp_path: Path, damage, message: str) -> None:
    sound = write(files.numbered(tmp_path, 1))
    damage(write(files.numbered(tmp_path, 2)))
    newest, before = choice.candidates(tmp_path)
    assert newest.problem is not None
    assert before == choice.Candidate(sound, None)
    with pytest.raises(
        CheckpointError, match=rf"{message}.*; the newest that is complete is .*step_00000001"
    ):
        choice.newest(tmp_path)


def test_without_a_sound_one_the_newest_is_an_error_and_without_any_none(tmp_path: Path) -> None:
    assert choice.newest(tmp_path) is None
    cut(write(files.numbered(tmp_path, 2)))
    with pytest.raises(CheckpointError, match="no other is complete"):
        choice.newest(tmp_path)


def test_the_words_name_every_damaged_one_once(tmp_path: Path) -> None:
    damaged = [f"step_{step}/x: cut; {files.REMEDY}" for step in (4, 2)]
    error = str(choice.none_sound(tmp_path / "zero" / "checkpoint", damaged))
    assert "2 checkpoints, and none to go on from: step_4/x: cut; step_2/x: cut; nothing was changed" in error
    assert "--from zero" in error
    assert "goes on from step_00000002" in choice.passed_over(damaged, tmp_path / "step_00000002")
