"""Files that a stage's sections name, their hashes, and what differs in words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from megatron_r1 import registry
from megatron_r1.data.sources.jsonl import Jsonl
from megatron_r1.data.tokenizers.tokenizer import TokenizerConfig
from megatron_r1.errors import DataError
from megatron_r1.files.run_directory import Artifact
from megatron_r1.run import lineage
from megatron_r1.section import NO_EFFECT, Section


class Stage(Section):
    """With sources at several depths."""

    kind: Literal["x"] = "x"
    data: dict[str, Jsonl] = Field(default_factory=dict)
    evaluate: Jsonl | None = None
    more: list[Jsonl] = Field(default_factory=list)
    export: Annotated[Jsonl | None, NO_EFFECT] = None


class FromFiles(Section):
    """As of a plug-in, without `input_files`."""

    path: str = ""
    language: str = "en"
    others: list[str] = Field(default_factory=list)
    count: int = 3


def jsonl(folder: Path, name: str, lines: int = 3) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"text": "a"}\n' * lines)
    return path


def test_every_source_of_a_stage_is_found_however_deep(tmp_path: Path) -> None:
    one, two, held, more = (jsonl(tmp_path, name) for name in ("1.jsonl", "d/2.jsonl", "h.jsonl", "m.jsonl"))
    jsonl(tmp_path, "d/3.jsonl")
    stage = Stage(
        data={"one": Jsonl(path=str(one)), "folder": Jsonl(path=str(two.parent))},
        evaluate=Jsonl(path=str(held), held_out="all"),
        more=[Jsonl(path=str(more))],
        export=Jsonl(path=str(tmp_path / "out")),
    )
    found = list(lineage.named_files(stage))
    assert found == [one, two, tmp_path / "d" / "3.jsonl", held, more]


def test_a_tokenizers_files_are_those_that_decide_its_ids(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    config = TokenizerConfig(kind="huggingface", path=str(tmp_path))
    assert config.input_files() == [tmp_path / "tokenizer.json"]
    (tmp_path / "tokenizer_config.json").write_text("{}")
    by_name = TokenizerConfig(kind="huggingface", path=str(tmp_path / "tokenizer.json"))
    assert by_name.input_files() == config.input_files()
    assert [path.name for path in config.input_files()] == ["tokenizer.json", "tokenizer_config.json"]


def test_a_plug_ins_values_that_name_what_is_there_count(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(registry, "is_plugged_in", lambda section: isinstance(section, FromFiles))
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path, "en")
    one, two, three = (jsonl(tmp_path, name) for name in ("a.txt", "folder/b", "folder/deep/c"))
    section = FromFiles(path="a.txt", others=[str(two.parent), "nowhere/x", "a.b", "\0/", "hf:a/b"])
    assert [path.resolve() for path in lineage.named_files(section)] == [one, two, three]
    pattern = FromFiles(path="folder/*")
    assert list(lineage.named_files(pattern)) == [Path("folder/b")]


def test_a_file_is_described_by_the_path_that_the_configuration_has(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").write_text("abc")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.model").write_text("")
    found = lineage.describe_files([Path("base"), tmp_path / "run" / "tokenizer.model"], tmp_path / "run")
    # printf abc | b3sum, and of nothing
    assert found == {
        "./base": {"size": 3, "blake3": "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"},
        "tokenizer.model": {
            "size": 0,
            "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        },
    }


def test_a_file_that_is_none_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nowhere")
    for path, message in ((tmp_path / "link", "a link to /nowhere"), (tmp_path, "a directory, not a file")):
        with pytest.raises(DataError, match=message):
            lineage.describe_file(path)


def test_a_change_of_the_same_size_is_seen_within_one_process_too(tmp_path: Path) -> None:
    path = jsonl(tmp_path, "a.jsonl")
    before = lineage.describe_file(path)
    path.write_text('{"text": "b"}\n' * 3)
    assert lineage.describe_file(path) != before


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 1 << 21])
def test_weights_of_any_size_are_sampled_from_end_to_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(size))
    (tmp_path / "config.json").write_text("{}")
    before = lineage.describe_weights(tmp_path)
    assert set(before) == {"config.json", "model.safetensors"}
    for place in (0, size // 2 if size <= 1 << 16 else size - 1, size - 1):
        content = bytearray(size)
        content[place : place + 1] = b"x"
        path.write_bytes(content)
        assert lineage.describe_weights(tmp_path) != before


FILE = {"size": 12_288, "blake3": "a"}
NOW = {"base": "1", "data/x.jsonl": FILE, "hf:m": {"config.json": FILE, "model.safetensors": FILE}}


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (NOW, []),
        ({**NOW, "base": "2"}, ["base changed"]),
        (
            {**NOW, "data/x.jsonl": {"size": 9_216, "blake3": "b"}},
            ["data/x.jsonl changed (9,216 bytes then, 12,288 now)"],
        ),
        (
            {**NOW, "data/x.jsonl": {"size": 12_288, "blake3": "b"}},
            ["data/x.jsonl changed (its content; it had and has 12,288 bytes)"],
        ),
        (
            {"base": "1", "data/y.jsonl": FILE, "hf:m": NOW["hf:m"]},
            ["data/x.jsonl is new (12,288 bytes)", "data/y.jsonl is no longer read (12,288 bytes then)"],
        ),
        (
            {**NOW, "hf:m": {"config.json": FILE}},
            ["hf:m/model.safetensors is new (12,288 bytes)"],
        ),
    ],
)
def test_what_differs_is_said_in_words(then: dict, words: list[str]) -> None:
    assert lineage.changed(then, NOW) == words
    assert lineage.changed(json.loads(json.dumps(then)), NOW) == words


def test_of_an_older_version_only_what_it_kept_is_compared() -> None:
    older = {"base": "1"}
    assert lineage.is_older(older)
    assert lineage.is_older({})
    assert not lineage.is_older(NOW)
    assert lineage.changed(older, NOW) == []
    assert lineage.changed({"base": "2"}, NOW) == ["base changed"]


def test_machines_with_other_files_are_named_by_rank() -> None:
    other = {**NOW, "data/x.jsonl": {"size": 1, "blake3": "b"}}
    assert lineage.require_equal([NOW, None, NOW, None]) == NOW
    with pytest.raises(DataError, match=r"ranks 0 and 2 read different files: data/x\.jsonl changed"):
        lineage.require_equal([NOW, None, other, None])


def test_many_differences_are_cut() -> None:
    assert lineage.in_words([f"{n} changed" for n in range(11)]).endswith("7 changed; and 3 more")


def test_data_that_a_stage_made_must_be_as_it_wrote_it() -> None:
    done = Artifact("kept", "x", {}, "", {}, None, {}, outputs={"data/s0.jsonl": "a", "data/s1.jsonl": "b"})
    same = {f"kept/data/s{n}.jsonl": {"size": 1, "blake3": digest} for n, digest in enumerate("ab")}
    lineage.require_outputs(Path("run"), {"kept": done}, same)
    for other, name in (
        ({**same, "kept/data/s1.jsonl": {"size": 1, "blake3": "c"}}, "s1"),
        ({**same, "kept/data/s2.jsonl": {"size": 1, "blake3": "c"}}, "s2"),
        ({"kept/data/s0.jsonl": same["kept/data/s0.jsonl"]}, "s1"),
    ):
        with pytest.raises(
            DataError, match=rf"run/kept/data/{name}\.jsonl: not as stage kept wrote it; use --from"
        ):
            lineage.require_outputs(Path("run"), {"kept": done}, other)
    older = replace(done, outputs={})
    lineage.require_outputs(Path("run"), {"kept": older}, same)
