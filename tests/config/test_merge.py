from pathlib import Path

import pytest

from megatron_r1.config.merge import override, read_file
from megatron_r1.errors import ConfigError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def findings(tree) -> list[str]:
    return [str(finding) for finding in tree.findings]


def test_mappings_are_merged_and_the_rest_replaced(write):
    write("common.yaml", "a: {x: 1, y: 2}\nlist: [1, 2]\nkept: true\n")
    tree = read_file(write("conf/run.yaml", "base: ../common.yaml\na: {y: 3, z: 4}\nlist: [5]\n"))
    assert tree.value == {"a": {"x": 1, "y": 3, "z": 4}, "list": [5], "kept": True}
    places = {path: str(position) for path, position in tree.positions.items()}
    assert places["a", "x"] == "common.yaml:1"
    assert places["a", "y"] == "conf/run.yaml:2"
    assert places["kept",] == "common.yaml:3"
    assert ("list", 1) not in places
    assert places["list", 0] == "conf/run.yaml:3"


def test_two_bases_deep_is_read_and_three_is_not(write):
    write("0.yaml", "a: 0\nb: 0\nc: 0\nd: 0\n")
    write("1.yaml", "base: 0.yaml\nb: 1\nc: 1\nd: 1\n")
    two = write("2.yaml", "base: 1.yaml\nc: 2\nd: 2\n")
    assert read_file(two).value == {"a": 0, "b": 1, "c": 2, "d": 2}
    tree = read_file(write("3.yaml", "d: 3\nbase: 2.yaml\n"))
    assert findings(tree) == [
        "1.yaml:1: base: at most 2 files deep, this is 3: 3.yaml -> 2.yaml -> 1.yaml -> 0.yaml"
    ]


def test_files_that_inherit_in_a_circle_are_refused(write):
    write("a/one.yaml", "base: ../b/two.yaml\n")
    tree = read_file(write("b/two.yaml", "x: 1\nbase: ../a/one.yaml\n"))
    assert findings(tree) == [
        "a/one.yaml:1: base: the files inherit in a circle: b/two.yaml -> a/one.yaml -> b/two.yaml"
    ]


def test_a_missing_base_is_refused_with_the_path_that_was_tried(write):
    tree = read_file(write("conf/x.yaml", "base: ../no.yaml\n"))
    assert findings(tree) == ["conf/x.yaml:1: base: no such file: ../no.yaml (looked for no.yaml)"]
    assert not tree.whole


def test_a_base_that_is_no_path_is_refused(write):
    assert findings(read_file(write("x.yaml", "base: [a, b]\n"))) == [
        "x.yaml:1: base: must be the path of one file, got ['a', 'b']"
    ]


@pytest.mark.parametrize(("text", "got"), [("", "nothing"), ("- 1\n", "[1]"), ("word\n", "'word'")])
def test_a_file_must_hold_a_mapping(write, text, got):
    assert findings(read_file(write("x.yaml", text))) == [f"x.yaml:1: must be a mapping of keys, got {got}"]


def test_another_kind_replaces_the_mapping_and_the_same_kind_merges(write):
    write("b.yaml", "model: {family: deepseek_v3, num_experts: 8}\nstages:\n  one: {kind: sft, lr: 1}\n")
    tree = read_file(
        write("x.yaml", "base: b.yaml\nmodel: {family: qwen2}\nstages:\n  one: {kind: sft, epochs: 2}\n")
    )
    assert tree.value["model"] == {"family": "qwen2"}
    assert tree.value["stages"]["one"] == {"kind": "sft", "lr": 1, "epochs": 2}
    assert ("model", "num_experts") not in tree.positions


def test_new_stages_come_after_those_of_the_base(write):
    write("b.yaml", "stages: {one: {x: 1}, two: {x: 1}}\n")
    tree = read_file(write("x.yaml", "base: b.yaml\nstages: {three: {x: 1}, one: {x: 2}}\n"))
    assert list(tree.value["stages"]) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1e-6", {"a": {"b": 1e-6, "c": 2}, "l": [{"x": 1}]}),
        ("a.b=no", {"a": {"b": "no", "c": 2}, "l": [{"x": 1}]}),
        ("a.b=x=y", {"a": {"b": "x=y", "c": 2}, "l": [{"x": 1}]}),
        ("a.b=", {"a": {"b": None, "c": 2}, "l": [{"x": 1}]}),
        ("a={d: [1]}", {"a": {"d": [1]}, "l": [{"x": 1}]}),
        ("l.0.x=2", {"a": {"b": 1, "c": 2}, "l": [{"x": 2}]}),
        ("n.e.w=3", {"a": {"b": 1, "c": 2}, "l": [{"x": 1}], "n": {"e": {"w": 3}}}),
    ],
)
def test_an_override_sets_what_it_names(write, text, value):
    tree = read_file(write("x.yaml", "a: {b: 1, c: 2}\nl: [{x: 1}]\n"))
    override(tree, text)
    assert tree.value == value
    assert tree.findings == []


def test_an_override_is_the_position_of_what_it_sets(write):
    tree = read_file(write("x.yaml", "a:\n  b: {c: 1}\n  d: 2\n"))
    override(tree, "a.b={e: 1}")
    places = {path: str(position) for path, position in tree.positions.items()}
    assert places == {(): "x.yaml:1", ("a",): "x.yaml:1", ("a", "b"): "override 'a.b={e: 1}'",
                      ("a", "b", "e"): "override 'a.b={e: 1}'", ("a", "d"): "x.yaml:3"}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b", "must look like stages.zero.optim.lr=3e-6"),
        ("a..b=1", "must look like stages.zero.optim.lr=3e-6"),
        ("=1", "must look like stages.zero.optim.lr=3e-6"),
        ("a.b.c=1", "a.b: holds 1, no mapping to set a key in"),
        ("l.1=1", "l.1: the list has 1 items, 0 to 0"),
        ("l.x=1", "l.x: this is a list; name an item by its number, 0 to 0"),
        ("a.b=[1", "a.b: not YAML"),
        ("a.b={c: 1, c: 2}", "a.b.c: duplicate key"),
    ],
)
def test_an_override_that_fits_nowhere_is_a_finding(write, text, message):
    tree = read_file(write("x.yaml", "a: {b: 1, c: 2}\nl: [1]\n"))
    override(tree, text)
    (finding,) = findings(tree)
    assert finding.startswith(f"override {text!r}: {message}")


def test_a_file_that_is_no_utf8_is_named_with_its_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"name: x\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:2: byte 0xe9 is not UTF-8"):
        read_file(path)
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_file(path).value == {"name": "x"}


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "\n".join(" " * i + "a:" for i in range(300))])
def test_a_file_that_is_nested_by_the_hundred_is_one_finding(write, text):
    tree = read_file(write("deep.yaml", text))
    assert findings(tree) == ["deep.yaml:1: not a configuration: nested deeper than 50 levels"]


def test_half_a_surrogate_pair_is_a_finding(write):
    tree = read_file(write("run.yaml", 'name: "\\ud800"\n'))
    assert "run.yaml:1: name: '\\ud800' holds half a surrogate pair" in findings(tree)[0]
