import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from megatron_r1.errors import CheckpointError
from megatron_r1.huggingface.safetensors_file import (
    DTYPES,
    Buffer,
    Planned,
    SafetensorsFile,
    bytes_of,
    header_of,
)


@pytest.fixture
def values():
    torch.manual_seed(0)
    return {
        "wide": torch.randn(6, 5000),
        "narrow": torch.randn(40, 12).bfloat16(),
        "vector": torch.randn(7).half(),
        "scalar": torch.tensor(3.5),
        "codes": torch.randn(4, 8).to(torch.float8_e4m3fn),
        "empty": torch.zeros(0, 4),
    }


@pytest.fixture
def file(values, tmp_path):
    save_file(values, tmp_path / "a.safetensors", metadata={"format": "pt"})
    return SafetensorsFile(tmp_path / "a.safetensors")


def test_whole_tensors_are_those_of_the_library(file, values):
    assert file.tensors.keys() == values.keys()
    for name, value in values.items():
        found = file.read(name)
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert bytes(bytes_of(found)) == bytes(bytes_of(value))


@pytest.mark.parametrize("name", ["wide", "narrow", "codes"])
@pytest.mark.parametrize("columns", [None, range(2, 7), range(0, 8)])
def test_slices_are_those_of_the_whole(file, values, name, columns):
    rows = range(1, 4)
    expected = values[name][1:4] if columns is None else values[name][1:4, columns.start : columns.stop]
    assert bytes(bytes_of(file.read(name, rows, columns))) == bytes(bytes_of(expected))


def test_wide_columns_are_read_row_by_row(file, values):
    assert torch.equal(file.read("wide", None, range(100, 4000)), values["wide"][:, 100:4000])


def test_what_is_written_is_read_by_the_library(values, tmp_path):
    planned = [Planned(name, value.dtype, tuple(value.shape)) for name, value in values.items()]
    path = tmp_path / "b.safetensors"
    path.write_bytes(header_of(planned) + b"".join(bytes(bytes_of(v)) for v in values.values()))
    with safe_open(path, "pt") as found:
        assert found.metadata() == {"format": "pt"}
        for name, value in values.items():
            assert bytes(bytes_of(found.get_tensor(name))) == bytes(bytes_of(value))


def test_every_type_has_a_name():
    assert len(DTYPES) == len(set(DTYPES.values())) == 13


def test_a_buffer_is_used_again_and_shows_no_more_than_was_asked_for(file, values, tmp_path):
    buffer = Buffer()
    wide = file.read("wide", buffer=buffer)
    assert torch.equal(wide, values["wide"])
    narrow = file.read("narrow", buffer=buffer)
    assert torch.equal(narrow, values["narrow"])
    assert narrow.data_ptr() == wide.data_ptr()
    assert narrow.untyped_storage().nbytes() == narrow.nbytes  # all of a storage goes into torch.save
    torch.save(narrow, tmp_path / "narrow.pt")
    assert (tmp_path / "narrow.pt").stat().st_size < narrow.nbytes + 3000


def rewrite(file, change):
    """The file with its header changed."""
    data = file.path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def set_end(header):
    header["vector"]["data_offsets"][1] -= 2


def move(header):
    header["codes"]["data_offsets"] = [n + 2 for n in header["codes"]["data_offsets"]]


def set_type(header):
    header["vector"]["dtype"] = "I4"


def set_shape(header):
    header["vector"]["shape"] = [-7]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_end, "vector of shape .* needs 14 bytes and has 12"),
        (move, "begins at byte"),
        (set_type, "vector is of type I4"),
        (set_shape, "no list of whole numbers"),
        (lambda header: header.update(vector=[1]), "entry of vector is malformed"),
    ],
)
def test_a_header_that_lies_is_refused(file, change, words):
    rewrite(file, change)
    with pytest.raises(CheckpointError, match=words):
        SafetensorsFile(file.path)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_cut_file_is_refused(file, kept):
    file.path.write_bytes(file.path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="cut"):
        SafetensorsFile(file.path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "header can't be read"),
        (b"[1]", "no mapping"),
        (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
        (b"[" * 5000, "nested deeper than 100"),
        (b'{"\\ud800": 1}', "half a surrogate pair"),
        (b'{"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}', "a is of type"),
        (b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "no list of whole numbers"),
        (b'{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}', "too large for a float"),
        (
            b'{"a": {"dtype": "F32", "shape": [' + b"9" * 3000 + b'], "data_offsets": [0, 4]}}',
            "whole numbers",
        ),
        (b'{"a": {"dtype": "F32", "shape": {"x": 1}, "data_offsets": [0, 4]}}', "no list of whole numbers"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}', "entry of a is malformed"),
        (b'{"a": null}', "entry of a is malformed"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, text, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match=words):
        SafetensorsFile(path)


def test_bytes_behind_the_data_are_refused(file):
    file.path.write_bytes(file.path.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="its header describes"):
        SafetensorsFile(file.path)


def test_a_file_that_is_cut_while_it_is_read_is_an_error(file):
    file.path.write_bytes(file.path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="cut while it was read"):
        [file.read(name) for name in file.tensors]
