"""What is JSON and what only Python's reader takes for it."""

import json
import os

import pytest

from megatron_r1.errors import CheckpointError, DataError
from megatron_r1.files.json_reader import MAX_DEPTH, NotJson, parse_json, read_json_object

REFUSED = [
    (b"", "it is empty"),
    (b" \n", "it is empty"),
    (b'{"a": 1,}', "column 9"),
    (b'{"a": 1} {"b": 2}', "Extra data at column 10"),
    (b'{\n"a": tru}', "line 2 column 6"),
    (b"NaN", "NaN is no number of JSON"),
    (b'{"a": [1, -Infinity]}', "-Infinity is no number"),
    (b"1e999", "1e999 is too large"),
    (b"-1e400", "-1e400 is too large"),
    (b"7" * 5000, "has 5000 digits"),
    (b"7" * 4000 + b".0", "too large for a float"),
    (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
    (b'{"x": {"a": 1, "b": 0, "a": 1}}', "the key 'a' comes twice"),
    (rb'"\ud800"', "half a surrogate pair"),
    (rb'{"a": ["ok", "\uDFFF \ud83d\ude00"]}', "half a surrogate pair"),
    (rb'{"\udc00": 1}', "half a surrogate pair"),
    (b'"\xff"', "byte 2 (0xff) is not UTF-8"),
    (b'"\xed\xa0\x80"', "byte 2 (0xed) is not UTF-8"),
    ('{"a": 1}'.encode("utf-16"), "it may be UTF-16"),
    ('{"a": 1}'.encode("utf-16-le"), "is NUL"),
    (b'{"a": \x00}', "is NUL"),
    (b"\x1f\x8b\x08\x00rest", "a gzip file"),
    (b"PK\x03\x04rest", "a zip file"),
    (b"PAR1rest", "a Parquet file"),
    (b"[" * 100_000, "nested deeper than 100"),
    (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested deeper than 100"),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper than 100"),
    (b'{"a": 01}', "column"),
    (b"'a'", "column 1"),
    (b'"a\nb"', "control character"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_is_no_json_is_refused_in_words(text, words):
    with pytest.raises(NotJson, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "\u00e9\u4e2d\U0001f600"]},
        [[] for _ in range(500)],
        0,
        1e308,
        -0.0,
        10**3999,
        "\\ud800",
        "a\ufffd\u2028b",
    ],
)
def test_json_is_read_as_it_was_written(value):
    for ascii_only in (True, False):
        written = json.dumps(value, ensure_ascii=ascii_only)
        assert parse_json(written) == parse_json(written.encode()) == value


def test_brackets_up_to_the_limit_are_read_whatever_the_stack_holds():
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH

    def below(frames: int) -> object:
        return parse_json(text) if frames == 0 else below(frames - 1)

    assert below(300) == parse_json(text)


def test_a_byte_order_mark_before_the_text_is_no_fault():
    assert parse_json(b'\xef\xbb\xbf{"a": 1}\r\n') == {"a": 1}


def test_a_file_that_is_no_file_is_named_in_words(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "folder").mkdir()
    for name, words in {
        "pipe": "a named pipe, not a file",
        "link": "a link to nowhere, which is not there",
        "circle": "can't be reached",
        "folder": "a directory, not a file",
        "missing": "no such file",
        "nul\0": "NUL",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(CheckpointError, match=f"{words}.*; fetch it again"):
            read_json_object(tmp_path / name, error=CheckpointError, remedy="fetch it again")


def test_a_file_that_holds_something_else_is_named_in_words(tmp_path):
    path = tmp_path / "a.json"
    for content, words in {
        "[1]": "a JSON object is needed, not an array",
        "null": "not null",
        "{": "not JSON: Expecting",
        "": "not JSON: it is empty",
    }.items():
        path.write_text(content)
        with pytest.raises(DataError, match=f"a.json: .*{words}.*; write it anew"):
            read_json_object(path, error=DataError, remedy="write it anew")
