"""The layering of the package: imports point down only, and only backend/ knows Megatron."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "megatron_r1"

# From the bottom to the top. What stands in one line may import its own line, unless APART says no.
LAYERS = (
    {
        "__init__",
        "types",
        "errors",
        "config",
        "models",
        "registry",
        "step_profile",
        "regular_file",
        "json_reader",
        "gym",
    },
    {"rl", "rewards", "data", "huggingface"},
    {"curation"},
    {"stages", "backend"},
    {
        "run_config",
        "artifact",
        "begun",
        "continuing",
        "lineage",
        "journal",
        "pipeline",
        "convert",
        "launch",
        "plan",
        "report",
        "check",
        "check_data",
        "check_tasks",
        "data_uses",
        "doctor",
    },
    {"cli"},
    {"__main__"},
)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
SIDE_BY_SIDE = ("rl", "rewards", "data", "huggingface")
APART = {
    *((a, b) for a in SIDE_BY_SIDE for b in SIDE_BY_SIDE if a != b),
    ("stages", "backend"),
    ("backend", "stages"),
}
ALLOWED = {("rewards", "megatron_r1.data.chat_template")}


def imports(source: str) -> Iterator[str]:
    """Modules that the source imports when it runs: not those for annotations alone."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: write it in full"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            pending.extend(ast.iter_child_nodes(node))


def violations(importer: str, source: str) -> list[str]:
    """What the module megatron_r1.IMPORTER[...] may not import."""
    found = []
    for module in imports(source):
        root, *rest = module.split(".")
        if root == "megatron" and importer != "backend":
            found.append(f"{module}: only backend/ imports Megatron")
        if root != "megatron_r1" or rest[0] not in LEVELS or rest[0] == importer:
            continue
        if any(importer == name and f"{module}.".startswith(f"{path}.") for name, path in ALLOWED):
            continue
        if LEVELS[rest[0]] > LEVELS[importer]:
            found.append(f"{module}: {rest[0]} is above {importer}")
        elif (importer, rest[0]) in APART:
            found.append(f"{module}: {importer} and {rest[0]} do not import each other")
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_module_imports_only_what_is_below_it():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    found = [
        f"{path.relative_to(PACKAGE.parent)} imports {violation}"
        for path in files
        for violation in violations(part(path), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(["layers are crossed:", *found])


def test_every_part_of_the_package_has_a_layer():
    parts = {part(path) for path in PACKAGE.rglob("*.py")}
    assert parts <= LEVELS.keys(), f"give {parts - LEVELS.keys()} a place in LAYERS"


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("stages", "import megatron.core"),
        ("stages", "def f():\n    from megatron.core import mpu"),
        ("stages", "from megatron_r1.backend.policy import MegatronPolicy"),
        ("stages", "from megatron_r1 import backend"),
        ("backend", "import megatron_r1.stages.grpo.trainer"),
        ("rl", "from megatron_r1.launch import local"),
        ("rl", "from megatron_r1.data.chat_template import ChatTemplate"),
        ("rewards", "from megatron_r1.data.packing import pack"),
        ("types", "from megatron_r1.rl.losses import grpo_loss"),
        ("pipeline", "try:\n    import megatron_r1.cli\nexcept ImportError:\n    pass"),
    ],
)
def test_an_import_that_points_up_or_across_is_found(importer, source):
    assert len(violations(importer, source)) == 1


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("backend", "import megatron.core"),
        ("stages", "from megatron_r1.rl.losses import grpo_loss"),
        ("stages", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import megatron_r1.run.chain"),
        ("rewards", "from megatron_r1.data.chat_template import ChatTemplate"),
        ("rewards", "from megatron_r1.data import chat_template as template"),
        ("launch", "from megatron_r1.run.chain import run"),
        ("models", "from megatron_r1 import __version__"),
    ],
)
def test_an_import_that_points_down_is_fine(importer, source):
    assert violations(importer, source) == []
