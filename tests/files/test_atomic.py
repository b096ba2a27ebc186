"""Readers see all of a file or none of it."""

import pytest

from megatron_r1.files.atomic import replacing, write_whole


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("content", ["tausend Äpfel\n", b"\xff\0"])
def test_a_file_is_replaced_by_what_was_written(tmp_path, content, durable):
    path = tmp_path / "a.json"
    path.write_text("before")
    write_whole(path, content, durable=durable)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_file_as_it_was_and_the_next_one_succeeds(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "before")
    with pytest.raises(ValueError, match="no bytes"):
        _write_half(path)
    assert path.read_text() == "before"
    write_whole(path, "after")
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def _write_half(path):
    with replacing(path) as file:
        file.write(b"half")
        raise ValueError("no bytes for the rest")


def test_two_writers_with_suffixes_of_their_own_do_not_meet(tmp_path):
    path = tmp_path / "a.model"
    with replacing(path, suffix=".1") as one, replacing(path, suffix=".2") as other:
        one.write(b"x" * 10)
        other.write(b"y")
    assert path.read_bytes() == b"x" * 10, "the outer block ended last"
