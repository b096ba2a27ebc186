import sys
from typing import Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from megatron_r1 import registry
from megatron_r1.config.section import Section
from megatron_r1.errors import ConfigError

TOY = """
from typing import Literal
from megatron_r1.config.section import Section
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
    assert {"arithmetic", "gym", "jsonl"} <= registry.sources().keys()
    assert {"accuracy", "format", "language"} <= registry.rewards().keys()
    assert "pretrain" in registry.stages()
    assert registry.sources()["jsonl"].config.model_fields["source"].annotation == Literal["jsonl"]
    for entries in (registry.stages(), registry.rewards(), registry.families(), registry.sources()):
        assert all(issubclass(entry.config, Section) for entry in entries.values())
