"""One tree from several: a file over its `base:` files, overrides over all of them.

Mappings are merged key by key, anything else is replaced. A mapping whose kind, family or source changes is
replaced too: the keys of a deepseek_v3 have no place in a qwen2. An override replaces what it names.
"""

from pathlib import Path
from typing import Any

from megatron_r1.config.spelling import LENGTHS, same_as, schedule
from megatron_r1.config.tree import Finding, KeyPath, Position, Tree, parse
from megatron_r1.errors import ConfigError
from megatron_r1.files.regular_file import read_bytes

BASE = "base"
DISCRIMINATORS = ("kind", "family", "source")
MAX_BASES = 2


def read_file(path: Path, *, above: tuple[Path, ...] = ()) -> Tree:
    """The file's tree over that of its base. above: the files that led here, the first one first."""
    tree = parse(_text(path), source=str(path))
    if not tree.findings and not isinstance(tree.value, dict):
        got = "nothing" if tree.value is None else repr(tree.value)
        message = f"must be a mapping of keys, got {got}"
        tree.findings.append(Finding(Position(str(path), 1), (), message))
    if not isinstance(tree.value, dict):
        tree.value = {}
        tree.whole = False
    if BASE not in tree.value:
        return tree
    base = tree.value.pop(BASE)
    position = tree.positions.pop((BASE,))
    chain = (*above, path)
    message = _base_problem(base, chain)
    if message:
        tree.findings.append(Finding(position, (BASE,), message))
        tree.whole = False
        return tree
    return overlay(read_file(beside(path, base), above=chain), tree)


def _text(path: Path) -> str:
    raw = read_bytes(path, error=ConfigError)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def beside(path: Path, name: str) -> Path:
    """A path from the folder of the file that names it, without a detour such as conf/../."""
    found = path.parent / name
    shortest = Path(*_without_detours(found.parts)) if found.parts else found
    return shortest if shortest.resolve() == found.resolve() else found


def _without_detours(parts: tuple[str, ...]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if part == ".." and kept and kept[-1] not in ("..", "/"):
            kept.pop()
        else:
            kept.append(part)
    return kept


def _base_problem(base: Any, chain: tuple[Path, ...]) -> str | None:
    if not isinstance(base, str):
        return f"must be the path of one file, got {base!r}"
    found = beside(chain[-1], base)
    names = " -> ".join(str(path) for path in (*chain, found))
    if found.resolve() in [path.resolve() for path in chain]:
        return f"the files inherit in a circle: {names}"
    if not found.is_file():
        return f"no such file: {base} (looked for {found})"
    if len(chain) > MAX_BASES:
        return f"at most {MAX_BASES} files deep, this is {len(chain)}: {names}"
    return None


def overlay(below: Tree, above: Tree) -> Tree:
    """`above` over `below`, with the positions of what is left of both."""
    replaced: list[KeyPath] = []
    value = _merge(below.value, above.value, (), replaced)
    kept = {
        path: position
        for path, position in below.positions.items()
        if not any(path[: len(gone)] == gone for gone in replaced)
    }
    findings, whole = below.findings + above.findings, below.whole and above.whole
    return Tree(value, kept | above.positions, findings, whole)


def _merge(below: dict[str, Any], above: dict[str, Any], path: KeyPath, replaced: list[KeyPath]) -> dict:
    merged = dict(below)
    name = path[-1] if path else None
    for key in above:
        other = same_as(key, {**below, **above}, name=name)
        if other in below and other not in above:
            replaced.append((*path, other))
            del merged[other]
    for key, value in above.items():
        old, here = below.get(key), (*path, key)
        if isinstance(old, dict) and isinstance(value, dict) and not _changes_kind(old, value, key):
            merged[key] = _merge(old, value, here, replaced)
        else:
            replaced.append(here)
            merged[key] = value
    return merged


def _changes_kind(below: dict[str, Any], above: dict[str, Any], name: str) -> bool:
    if name == LENGTHS and ("steps" in below) != ("steps" in above):
        return True
    return any(key in below and key in above and below[key] != above[key] for key in DISCRIMINATORS)


def override(tree: Tree, text: str) -> None:
    """Set what `a.b=value` names; mappings on the way are made where they are missing."""
    source = Position(f"override {text!r}")
    keys, equals, written = text.partition("=")
    names = keys.strip().split(".")
    if not equals or not all(names):
        tree.findings.append(Finding(source, (), "must look like stages.zero.optim.lr=3e-6"))
        return
    node: dict[Any, Any] | list[Any] = tree.value
    path: KeyPath = ()
    for name in names:
        key = int(name) if isinstance(node, list) and name.isdecimal() else name
        path = (*path, key)
        last = len(path) == len(names)
        into_lengths = names[len(path) - 1 : len(path) + 1] == [LENGTHS, "steps"]
        if into_lengths and isinstance(node, dict) and key in node:
            node[key] = schedule(node[key])  # its other form
        problem = _dead_end(node, key, last=last)
        if problem:
            tree.findings.append(Finding(source, path, problem))
            return
        if last:
            value = parse(written, source=source.source, first_line=0, path=path)
            _set(tree, node, path, value, source=source)
        elif isinstance(node, dict) and key not in node:
            node[key] = {}
            tree.positions[path] = source
        node = node[key]  # type: ignore[index]  # _dead_end has seen that the key fits


def _set(
    tree: Tree, node: dict[Any, Any] | list[Any], path: KeyPath, written: Tree, *, source: Position
) -> None:
    other = same_as(path[-1], node, name=path[-2] if path[1:] else None) if isinstance(node, dict) else None
    if other in node:
        del node[other]  # type: ignore[arg-type]
    node[path[-1]] = written.value  # type: ignore[index]
    kept = {old: position for old, position in tree.positions.items() if old[: len(path)] != path}
    tree.positions = kept | {path: source} | written.positions
    tree.findings += written.findings


def _dead_end(node: dict[Any, Any] | list[Any], key: str | int, *, last: bool) -> str | None:
    """Why an override can't go on at `key`, if it can't."""
    if isinstance(node, list):
        if not isinstance(key, int):
            return f"this is a list; name an item by its number, 0 to {len(node) - 1}"
        if key >= len(node):
            return f"the list has {len(node)} items, 0 to {len(node) - 1}"
    if last or (isinstance(node, dict) and key not in node):
        return None
    inner = node[key]  # type: ignore[index]
    return None if isinstance(inner, dict | list) else f"holds {inner!r}, no mapping to set a key in"
