"""The line to write where a mapping by names is asked for and a list, a single source or a path was given."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OPEN = "..."  # the user has to choose
_NAMING = ("name", "kind", "source", "family")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a mapping by names takes.

    names: the only ones; None: any. tag: the key that every section in it has, with one of `kinds`; "": none.
    """

    names: Collection[str] | None = None
    tag: str = ""
    kinds: Sequence[str] = ()


def of_list(key: str, items: Sequence[Any], wanted: Wanted) -> str:
    """A list as a mapping: each item under a name of its own. "" where an item suggests none."""
    named: dict[str, Any] = {}
    for item in items:
        name, section = _of_item(item, wanted)
        if not name or (wanted.names is not None and name not in wanted.names):
            return ""
        named[name if name not in named else f"{name}_{len(named) + 1}"] = section
    open_ = any(section.get(wanted.tag) == OPEN for section in named.values())
    choice = f", {wanted.tag}: one of {', '.join(wanted.kinds)}" if open_ else ""
    return f"; write {key}: {_flow(named)}{choice}" if named else ""


def _of_item(item: Any, wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """A name, and the section below it; "" where the item suggests none."""
    tag = wanted.tag
    if isinstance(item, str) and tag == "source" and item.endswith(".jsonl"):
        return "mine", {"source": "jsonl", "path": item}
    if isinstance(item, str) and item.replace("_", "a").isalnum():
        return item, {tag: item if item in wanted.kinds else OPEN} if tag else {}
    if isinstance(item, Mapping) and (name := _name(item)):
        section = {key: value for key, value in item.items() if key != "name"}
        return name, {tag: OPEN, **section} if tag else section
    return "", {}


def of_flat(key: str, section: Mapping[str, Any]) -> str:
    """A single source that stands where sources by name are asked for."""
    return f"must be sources by a name of your choice; write {key}: {_flow({'mine': dict(section)})}"


def of_path(key: str, path: str) -> str:
    """The path of a file where sources by name are asked for."""
    return f"; write {key}: {_flow({'mine': {'source': 'jsonl', 'path': path}})}"


def _name(item: Mapping[str, Any]) -> str:
    found = next((item[key] for key in _NAMING if isinstance(item.get(key), str)), "")
    return found if found.replace("_", "a").isalnum() else ""


def _flow(value: Any) -> str:
    """YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value == OPEN:
        return OPEN
    plain = isinstance(value, str) and value.replace("_", "a").replace("/", "a").replace(".", "a").isalnum()
    return value if plain else json.dumps(value, ensure_ascii=False)
