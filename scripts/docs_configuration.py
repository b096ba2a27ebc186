"""Hook of mkdocs: the page with every key of the YAML, made from conf/schema.json.

docs/reference/configuration.md says `<!-- keys -->` where the tables go: the run's keys, then a section each.
"""

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

SCHEMA = Path(__file__).parents[1] / "conf" / "schema.json"
PLACE = "<!-- keys -->"
DISCRIMINATORS = ("kind", "source", "family")  # the key that chooses one section among several


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if PLACE not in markdown:
        return markdown
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = [f"## The run\n\n{table(schema)}"]
    parts += [section(name, entry) for name, entry in sorted(schema["$defs"].items())]
    return markdown.replace(PLACE, "\n\n".join(parts))


def section(name: str, entry: dict[str, Any]) -> str:
    chosen = [
        f"`{key}: {entry['properties'][key]['const']}`"
        for key in DISCRIMINATORS
        if "const" in entry.get("properties", {}).get(key, {})
    ]
    about = " ".join([*(f"{choice}." for choice in chosen), one_line(entry.get("description", ""))])
    return f"## {name}\n\n{about}\n\n{table(entry)}"


def table(entry: dict[str, Any]) -> str:
    if not entry.get("properties"):
        return ""
    required = entry.get("required", [])
    rows = [row(key, value, key in required) for key, value in entry["properties"].items()]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def row(key: str, value: dict[str, Any], required: bool) -> str:
    default = "required" if required else default_of(value)
    return f"| `{key}` | {cell(type_of(value))} | {cell(default)} | {cell(value.get('description', ''))} |"


def default_of(value: dict[str, Any]) -> str:
    if isinstance(value.get("default"), dict):
        return "its own defaults"  # a section, whose table has them
    return code(value["default"]) if "default" in value else ""


def type_of(value: dict[str, Any]) -> str:
    """The kinds of value that a key takes, as words and links to their sections."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in value:
        return code(value["const"])
    if "enum" in value:
        return ", ".join(code(choice) for choice in value["enum"])
    choices = value.get("anyOf", value.get("oneOf"))
    if choices is not None:
        return " or ".join(dict.fromkeys(type_of(choice) for choice in choices))
    if value.get("type") == "array":
        return f"list of {type_of(value.get('items', {}))}"
    inner = value.get("additionalProperties")
    if isinstance(inner, dict):
        return f"names to {type_of(inner)}"
    return value.get("type", "any")


def code(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return f"`{text}`" if text else '`""`'


def cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


def one_line(text: str) -> str:
    return " ".join(text.split())
