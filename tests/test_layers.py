"""The shape of the package: folders in one order, no circle in any, Megatron in backend/ alone."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "megatron_r1"
MOST_FILES = 15

# From the bottom to the top. A name imports names of lower lines, never its neighbour.
LEVELS = (
    ("errors", "types"),
    ("files", "section"),
    ("models", "gym"),
    ("config", "registry"),
    ("runtime", "rl"),
    ("tracking", "data"),
    ("huggingface", "rewards"),
    ("curation", "report"),
    ("stages", "backend"),
    ("run",),
    ("plan",),
    ("check",),
    ("launch",),
    ("convert", "doctor"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
ANYWHERE = "__init__"  # of the package itself: the version


def imports(source: str) -> Iterator[str]:
    """What the source imports when it runs, in full: not what it imports for annotations alone."""
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
        if root == "megatron_r1" and rest[0] in LEVEL and rest[0] != importer:
            if LEVEL[rest[0]] > LEVEL[importer]:
                found.append(f"{module}: {rest[0]} is above {importer}")
            elif LEVEL[rest[0]] == LEVEL[importer]:
                found.append(f"{module}: {rest[0]} stands beside {importer}")
    return found


def circle(files: Mapping[str, str], package: str) -> list[str]:
    """The modules and packages directly in a package that import each other in a circle, or [].

    files: the source of every module by its full name.
    """
    graph = defaultdict(set)
    for module, source in files.items():
        own = _child(module, package)
        if own is not None:
            graph[own] |= {_child(name, package) for name in imports(source)} - {own, None}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def _child(module: str, package: str) -> str | None:
    inside = module.removeprefix(f"{package}.")
    return None if inside == module else inside.split(".")[0]


def _sources() -> dict[str, str]:
    names = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in _files()}
    return {name.removesuffix(".__init__"): path.read_text("utf-8") for path, name in names.items()}


def _files() -> Iterable[Path]:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    return files


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_module_imports_only_what_is_below_it():
    found = [
        f"{path.relative_to(PACKAGE.parent)} imports {violation}"
        for path in _files()
        if _part(path) != ANYWHERE
        for violation in violations(_part(path), path.read_text("utf-8"))
    ]
    assert not found, "\n".join(["layers are crossed:", *found])


def test_every_part_of_the_package_has_one_place_and_none_more_than_one_neighbour():
    assert {_part(path) for path in _files()} - {ANYWHERE} == LEVEL.keys()
    assert max(map(len, LEVELS)) <= 2


def test_no_folder_has_a_circle():
    files = _sources()
    packages = {name.rsplit(".", 1)[0] for name in files if "." in name}
    found = {package: circle(files, package) for package in sorted(packages)}
    assert not any(found.values()), {package: names for package, names in found.items() if names}


def test_no_folder_is_crowded_and_none_holds_one_file():
    for folder in {path.parent for path in _files()}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
        assert len([path for path in folder.iterdir() if path.name != "__pycache__"]) > 1, folder


def test_a_circle_is_found_through_the_folders_below():
    files = {
        "p.a": "from p.b import c",
        "p.b.c": "import p.d",
        "p.d": "from p import a",
        "p.e": "import p.a",
    }
    assert set(circle(files, "p")) == {"a", "b", "d"}
    assert circle({**files, "p.d": ""}, "p") == []


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("stages", "import megatron.core"),
        ("stages", "def f():\n    from megatron.core import mpu"),
        ("stages", "from megatron_r1.backend.policy import MegatronPolicy"),
        ("stages", "from megatron_r1 import backend"),
        ("backend", "import megatron_r1.stages.sft"),
        ("rl", "from megatron_r1.launch import local"),
        ("rl", "from megatron_r1.data.chat_template import ChatTemplate"),
        ("data", "from megatron_r1.rewards.base import Reward"),
        ("types", "from megatron_r1.rl.losses import grpo_loss"),
        ("run", "try:\n    import megatron_r1.cli\nexcept ImportError:\n    pass"),
    ],
)
def test_an_import_that_points_up_or_across_is_found(importer, source):
    assert len(violations(importer, source)) == 1


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("backend", "import megatron.core"),
        ("stages", "from megatron_r1.rl.losses import grpo_loss"),
        ("stages", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import megatron_r1.run.config"),
        ("rewards", "from megatron_r1.data.chat_template import ChatTemplate"),
        ("rewards", "from megatron_r1.data import chat_template"),
        ("launch", "from megatron_r1.run.chain import run"),
        ("models", "from megatron_r1 import __version__"),
    ],
)
def test_an_import_that_points_down_is_fine(importer, source):
    assert violations(importer, source) == []


def test_the_product_knows_nothing_of_the_toy():
    """Neither an import nor a name: its sources, rewards and metrics are plug-ins under examples/toy."""
    sources = [f"sources.{name}" for name in ("arithmetic", "assistant", "unusual")]
    words = [*sources, "checklist", "full_chain", "gym_words", "examples.toy"]
    texts = {path.name: path.read_text("utf-8") for path in _files()}
    assert [(name, word) for name, text in texts.items() for word in words if word in text] == []
