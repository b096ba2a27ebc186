"""The pages: the site builds strictly, and every path, command and key that a page names exists."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from megatron_r1 import cli
from megatron_r1.config.spelling import RENAMED
from megatron_r1.run.config import load_run

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "examples", "slurm", "benchmarks", "findings")
FOUND = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in FOUND)
NAMED = re.compile(r"(?<![\w/.*-])(?:[\w*-]+/)+[\w.*-]+\.(?:py|yaml|md|sh|png|svg|toml|jinja)\b")
OF_A_READER = re.compile(
    r"(runs|models|checkpoints|dist|build|data)/|.*(NAME|FOLDER|my_)"
)  # what a page tells to make
BLOCK = re.compile(r"^[ ]*```(\w+)\n(.*?)^[ ]*```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = "..."


@pytest.mark.slow
def test_the_site_builds_without_a_dead_link(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "clip_high" in (tmp_path / "site" / "reference" / "rl.html").read_text(encoding="utf-8")
    assert (tmp_path / "site" / "repository" / "index.html").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {path for path in NAMED.findall(text) if not OF_A_READER.match(path)}
    assert [path for path in sorted(named) if not exists(path, (ROOT / page).parent)] == []


def exists(path: str, beside: Path) -> bool:
    """From the repository, from the package, or from the page."""
    return any(list(place.glob(path)) for place in (ROOT, ROOT / "megatron_r1", beside))


def blocks(kinds: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for kind, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
            if kind in kinds.split():
                yield page, text


COMMANDS = [
    (page, line.split(" #")[0].strip())
    for page, text in blocks("bash sh")
    for line in text.replace("\\\n", " ").splitlines()
    if re.match(r"\s*(\.venv\S*/bin/)?megatron-r1 ", line)
]


def test_commands_of_the_pages_are_commands():
    assert len(COMMANDS) > 30
    for page, line in COMMANDS:
        words = shlex.split(line)[1:]
        stop = next((i for i, word in enumerate(words) if word in (">", "...", "|")), len(words))
        if "[" not in line:  # what is optional stands in brackets
            try:
                cli.parse(words[:stop])
            except SystemExit:
                pytest.fail(f"{page}: {line}")


def test_configurations_and_overrides_of_the_commands_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    parsed = [cli.parse(shlex.split(line)[1:]) for _, line in COMMANDS if " conf/" in line]
    for conf, overrides in dict.fromkeys((args.conf, tuple(args.overrides)) for args in parsed):
        if conf.exists():  # conf/my_run.yaml is the reader's
            load_run(conf, overrides=overrides)


@pytest.mark.parametrize(("page", "text"), list(blocks("yaml")))
def test_keys_of_the_yaml_blocks_exist(page, text):
    found = YAML(typ="safe", pure=True).load(text)
    assert problems(found, root_of(found)) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_a_page_names_no_key_of_old(page):
    old = rf"(?<!benchmarks\.)(?<![\w/])({'|'.join(RENAMED)})(?!\.md|\w)"
    assert re.findall(old, (ROOT / page).read_text(encoding="utf-8")) == []


def test_python_blocks_of_the_how_to_pages_run():
    found = [text for page, text in blocks("python") if page.startswith("docs/how_to/")]
    assert found
    for text in found:
        exec(compile(text, "a page", "exec"), {})


@cache
def schema() -> dict[str, Any]:
    return json.loads((ROOT / "conf" / "schema.json").read_text(encoding="utf-8"))


def root_of(found: dict[str, Any]) -> dict[str, Any]:
    """What a fragment is a part of: a run, a run's stages, or a section that has all its keys."""
    if found.keys() <= schema()["properties"].keys():
        return schema()
    if all(isinstance(value, dict) and "kind" in value for value in found.values()):
        return schema()["properties"]["stages"]
    return next(entry for entry in schema()["$defs"].values() if found.keys() <= entry["properties"].keys())


def problems(value: Any, wanted: dict[str, Any], place: str = "") -> list[str]:
    """What the schema refuses in a fragment; a fragment may lack what a whole would need."""
    if "$ref" in wanted:
        return problems(value, schema()["$defs"][wanted["$ref"].rpartition("/")[2]], place)
    if value == PLACEHOLDER:
        return []
    choices = wanted.get("anyOf", wanted.get("oneOf"))
    if choices is not None:
        return min(
            (problems(value, choice, place) for choice in choices), key=lambda found: (len(found), found)
        )
    if "const" in wanted or "enum" in wanted:
        return [] if value in wanted.get("enum", [wanted.get("const")]) else [f"{place}: {value!r}"]
    if isinstance(value, dict):
        return [text for key in value for text in _of_key(key, value[key], wanted, f"{place}.{key}")]
    if isinstance(value, list):
        return [text for one in value for text in problems(one, wanted.get("items", {}), place)]
    return [] if _has_type(value, wanted.get("type")) else [f"{place}: {value!r} is no {wanted['type']}"]


def _of_key(key: Any, value: Any, wanted: dict[str, Any], place: str) -> list[str]:
    if key == PLACEHOLDER:
        return []
    inner = wanted.get("properties", {}).get(
        key, wanted.get("additionalProperties", wanted.get("type") is None)
    )
    if isinstance(inner, bool):
        return [] if inner else [f"{place}: no such key"]
    return problems(value, inner, place)


def _has_type(value: Any, name: str | None) -> bool:
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    if name is None:
        return True
    if name not in types or (isinstance(value, bool) and name != "boolean"):
        return False
    return isinstance(value, types[name])
