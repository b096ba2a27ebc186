"""The line to write where a mapping by names is asked for and a list, a single source or a path was given."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_NAMING = ("name", "kind", "source", "family")


def of_list(key: str, items: Sequence[Any]) -> str:
    """A list as a mapping: each item under a name of its own. "" where an item suggests none."""
    named: dict[str, Any] = {}
    for item in items:
        if isinstance(item, str) and item.replace("_", "a").isalnum():
            name, section = item, {}
        elif isinstance(item, Mapping) and (name := _name(item)):
            section = {k: v for k, v in item.items() if k != "name"}
        else:
            return ""
        named[name if name not in named else f"{name}_{len(named) + 1}"] = section
    return f"; write {key}: {_flow(named)}" if named else ""


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
    plain = isinstance(value, str) and value.replace("_", "a").replace("/", "a").replace(".", "a").isalnum()
    return value if plain else json.dumps(value, ensure_ascii=False)
