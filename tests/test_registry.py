import hashlib
import sys
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from megatron_r1 import registry
from megatron_r1.errors import ConfigError
from megatron_r1.run.config import load_run
from megatron_r1.section import Section

TOY = """
from typing import Literal
from megatron_r1.section import Section
class {name}(Section):
    "What {name} does."
    kind: Literal["{kind}"]
    weight: float = 1.0
STAGE = {name}
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes an importable package of the given modules; returns its name."""

    def make(**modules: str) -> str:
        name = f"toy_{tmp_path.name.replace('-', '_')}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return make


def test_a_file_with_the_constant_is_an_entry_and_one_without_is_a_helper(package):
    name = package(
        b=TOY.format(name="B", kind="beta"), a=TOY.format(name="A", kind="alpha"), helper="STEP = 1\n"
    )
    found = registry.scan(name, constant="STAGE", discriminator="kind")
    assert list(found) == ["alpha", "beta"]
    assert found["alpha"].config.__name__ == "A"
    assert found["alpha"].module is sys.modules[f"{name}.a"]


def test_without_a_discriminator_the_name_is_the_file_s(package):
    name = package(first=TOY.format(name="A", kind="x"), second=TOY.format(name="B", kind="x"))
    assert list(registry.scan(name, constant="STAGE", discriminator=None)) == ["first", "second"]


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"a": TOY.format(name="A", kind="x"), "b": TOY.format(name="B", kind="x")}, "'x' is also in"),
        ({"a": "STAGE = 3\n"}, "must be a class"),
        ({"a": "class A: ...\nSTAGE = A\n"}, "derived from Section"),
        ({"a": TOY.format(name="A", kind="x").replace("Literal[", "str  # [")}, "must have kind"),
    ],
)
def test_an_entry_that_breaks_the_rules_is_refused(package, modules, message):
    with pytest.raises(ConfigError, match=message):
        registry.scan(package(**modules), constant="STAGE", discriminator="kind")


def test_a_union_takes_each_entry_by_its_name(package):
    name = package(a=TOY.format(name="A", kind="alpha"), b=TOY.format(name="B", kind="beta"))
    entries = registry.scan(name, constant="STAGE", discriminator="kind")
    adapter = TypeAdapter(registry.union(entries, "kind"))
    assert type(adapter.validate_python({"kind": "beta"})) is entries["beta"].config
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "gamma"})


def test_the_default_of_a_union_is_meant_where_no_name_is_given(package):
    texts = {name: TOY.format(name=name.upper(), kind=kind) for name, kind in (("a", "alpha"), ("b", "beta"))}
    texts["a"] = texts["a"].replace('["alpha"]', '["alpha"] = "alpha"')
    entries = registry.scan(package(**texts), constant="STAGE", discriminator="kind")
    adapter = TypeAdapter(registry.union(entries, "kind", default="alpha"))
    for given, kind in (({"weight": 2.0}, "alpha"), ({"kind": "alpha"}, "alpha"), ({"kind": "beta"}, "beta")):
        assert type(adapter.validate_python(given)) is entries[kind].config
    assert type(adapter.validate_python(entries["beta"].config(kind="beta"))) is entries["beta"].config
    for wrong in ({"kind": "gamma"}, {"kind": ["alpha"]}, 3):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_by_name_has_one_optional_key_an_entry(package):
    name = package(a=TOY.format(name="A", kind="x"), b=TOY.format(name="B", kind="x"))
    rewards = registry.by_name(registry.scan(name, constant="STAGE", discriminator=None), "Rewards")
    value = rewards.model_validate({"a": {"kind": "x", "weight": 2.0}})
    assert value.model_dump() == {"a": {"kind": "x", "weight": 2.0}, "b": None}
    assert rewards.model_json_schema()["properties"]["a"]["description"] == "What A does."
    with pytest.raises(ValidationError, match="c"):
        rewards.model_validate({"c": {}})


def test_the_package_s_own_folders_are_found():
    assert {"deepseek_v3", "qwen2", "qwen3", "llama"} <= registry.families().keys()
    assert {"gym", "jsonl", "stage"} <= registry.sources().keys()
    assert {"accuracy", "format", "language"} <= registry.rewards().keys()
    assert "pretrain" in registry.stages()
    assert list(registry.losses()) == ["grpo"]
    assert registry.sources()["jsonl"].config.model_fields["source"].annotation == Literal["jsonl"]
    for entries in (registry.stages(), registry.rewards(), registry.families(), registry.sources()):
        assert all(issubclass(entry.config, Section) for entry in entries.values())


@pytest.fixture
def nothing_is_settled(monkeypatch):
    """As in a process that has read no configuration yet."""
    monkeypatch.setattr(registry, "_plug_ins", {})
    for name in ("stages", "rewards", "losses", "families", "sources", "trackers", "templates"):
        monkeypatch.setattr(registry, name, cache(lambda: {}))


@pytest.fixture
def own(tmp_path):
    def write(text: str, name: str = "own.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_plug_in_is_an_entry_and_its_text_is_hashed(nothing_is_settled, package, own):
    text = TOY.format(name="Own", kind="mine")
    registry.plug_in(own(text))
    registry.plug_in(own(text))  # again, as a rank reads what the command has resolved
    name = package(a=TOY.format(name="A", kind="alpha"))
    found = registry.scan(name, constant="STAGE", discriminator="kind")
    assert list(found) == ["alpha", "mine"]
    assert list(registry.scan(name, constant="STAGE", discriminator=None)) == ["a", "own"]

    class Outer(Section):
        inner: dict[str, Section]

    plain, mine = (found[kind].config.model_validate({"kind": kind}) for kind in ("alpha", "mine"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert registry.plugged_in(plain, Outer.model_construct(inner={"x": mine})) == {"own.py": digest}
    assert registry.plugged_in(plain) == {}
    with pytest.raises(ConfigError, match="another plug-in of this name is in use"):
        registry.plug_in(own(text + "\n"))
    registry.plug_in(own(text, name="twin.py"))
    with pytest.raises(ConfigError, match=r"twin\.py: 'mine' is also in .*own\.py; rename one"):
        registry.scan(name, constant="STAGE", discriminator="kind")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("1 / 0", "own.py", r"own\.py: can't be run: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "own.py", r"own\.py: can't be run: SystemExit: 0"),
        (
            "REWRAD = 1",
            "own.py",
            "defines none of STAGE, REWARD, .*, so it adds nothing",
        ),
        ("", "my-own.py", r"a plug-in is called NAME\.py"),
    ],
)
def test_a_plug_in_that_adds_nothing_is_refused(nothing_is_settled, own, text, name, message):
    with pytest.raises(ConfigError, match=message):
        registry.plug_in(own(text, name=name))


def test_a_plug_in_after_the_first_configuration_is_refused_with_its_line(tmp_path, own):
    registry.stages()
    path = own(TOY.format(name="Own", kind="mine"))
    conf = tmp_path / "run.yaml"
    conf.write_text(f"name: x\nplugins:\n  - {path}\n  - no.py\n")
    with pytest.raises(ConfigError) as error:
        load_run(conf)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{conf}:3: plugins.0: {path}: comes too late, what can be configured is settled")
    looked = f"(looked for {tmp_path / 'no.py'} and no.py, from {Path.cwd()})"
    assert second == f"{conf}:4: plugins.1: no such file: no.py {looked}"


def test_a_plug_in_is_looked_for_beside_the_file_that_names_it_then_from_where_the_command_runs(
    tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(registry, "plug_in", asked.append)
    for name in ("conf/sub/own.py", "conf/both.py", "both.py", "here.py", "conf/base/base.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "conf/a.yaml").write_text("plugins: [sub/own.py, both.py, here.py, sub/../sub/own.py]\n")
    (tmp_path / "conf/base/base.yaml").write_text("plugins: [base.py]\n")
    (tmp_path / "conf/b.yaml").write_text("base: base/base.yaml\n")
    monkeypatch.chdir(tmp_path)

    def named(conf: str, *overrides: str) -> list[str]:
        asked.clear()
        with pytest.raises(ConfigError):  # these are no runs
            load_run(Path(conf), overrides=overrides)
        return list(map(str, asked))

    assert named("conf/a.yaml") == ["conf/sub/own.py", "conf/both.py", "here.py", "conf/sub/own.py"]
    assert named("conf/b.yaml") == ["conf/base/base.py"]
    assert named("conf/b.yaml", "plugins=[both.py]") == ["both.py"]


def test_files_that_a_plug_in_imports_from_beside_it_count_with_it(
    nothing_is_settled, own, tmp_path, monkeypatch
):
    monkeypatch.setattr(registry, "_imported", {})
    monkeypatch.syspath_prepend(tmp_path)
    beside = own("VALUE = 1\n", name=f"beside_{tmp_path.name.replace('-', '_')}.py")
    text = f"import json, {beside.stem}\n{TOY.format(name='Own', kind='mine')}"
    registry.plug_in(own(text))
    found = registry.scan("megatron_r1.curation", constant="STAGE", discriminator="kind")
    mine = found["mine"].config.model_validate({"kind": "mine"})
    assert registry.imported_by_plug_ins(mine) == [beside]
    assert registry.imported_by_plug_ins(Section()) == []


def test_plug_ins_of_a_folder_import_each_other_in_any_order(nothing_is_settled, own, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_imported", {})
    monkeypatch.chdir(tmp_path)
    facts = own("TEN = 10\n" + TOY.format(name="Facts", kind="facts"), name="facts.py")
    sums = own("from .facts import Facts, TEN\n" + TOY.format(name="Sums", kind="sums"), name="sums.py")
    more = own("from . import facts\n" + TOY.format(name="More", kind="more"), name="more.py")
    for path in (sums, facts, more):
        registry.plug_in(path)
    found = registry.scan("megatron_r1.curation", constant="STAGE", discriminator="kind")
    assert found["sums"].module.Facts is found["facts"].config is found["more"].module.facts.Facts
    mine = found["more"].config.model_validate({"kind": "more"})
    assert list(registry.plugged_in(mine)) == ["more.py"]
    # what it imports decides too, and the path holds where the folder is moved
    assert registry.imported_by_plug_ins(mine) == [facts.relative_to(tmp_path)]
    with pytest.raises(ConfigError, match=r"lonely\.py: can't be run: ModuleNotFoundError"):
        registry.plug_in(own("from .nobody import x\n", name="lonely.py"))
