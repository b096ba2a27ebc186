"""A YAML file, its bases and overrides -> one validated object, or every mistake in it at once."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from megatron_r1.config.explain import explain, position_of
from megatron_r1.config.merge import overlay, override, read_file
from megatron_r1.config.tree import Finding, KeyPath, Position, Tree
from megatron_r1.errors import ConfigError
from megatron_r1.files.regular_file import file_problem
from megatron_r1.section import Section


@dataclass(frozen=True, slots=True)
class Loaded[S: Section]:
    """The validated object, the plain tree that it was made from, and where each key was written."""

    value: S
    tree: Mapping[str, Any]
    positions: Mapping[KeyPath, Position]

    def finding(self, path: KeyPath, message: str) -> Finding:
        """Something wrong at a key, for `refuse`; a key that was not given counts as its mapping."""
        return Finding(position_of(Tree(self.tree, dict(self.positions)), path), path, message)


def load[S: Section](
    path: Path, schema: type[S], *, overrides: Sequence[str] = (), below: Path | None = None
) -> Loaded[S]:
    """Read and validate; the arguments are those of `read`. ConfigError lists every finding, one a line."""
    return validated(read(path, overrides=overrides, below=below), schema)


def read(path: Path, *, overrides: Sequence[str] = (), below: Path | None = None) -> Tree:
    """The tree of a file. below: a file whose keys hold where `path` and its bases say nothing.

    ConfigError: it is no tree at all; other findings are in it.
    """
    for file in (path, below):
        if file is not None and (problem := file_problem(file)):
            raise ConfigError(f"{file}: {problem}")
    tree = read_file(path)
    if below is not None:
        tree = overlay(read_file(below), tree)
    for text in overrides:
        override(tree, text)
    tree.positions.setdefault((), Position(str(path), 1))
    if not tree.whole:
        refuse(tree.findings)
    return tree


def validated[S: Section](tree: Tree, schema: type[S]) -> Loaded[S]:
    """The object that a tree describes. ConfigError lists every finding, one a line."""
    value, findings = _validate(tree, schema)
    unread = {(finding.position, finding.path) for finding in tree.findings}
    findings = [finding for finding in findings if (finding.position, finding.path) not in unread]
    refuse([*tree.findings, *findings])
    assert value is not None
    return Loaded(value, tree.value, tree.positions)


def _validate[S: Section](tree: Tree, schema: type[S]) -> tuple[S | None, list[Finding]]:
    # as JSON: there a list may stand for a tuple and text for a path, strict as we are
    try:
        return schema.model_validate_json(json.dumps(tree.value)), []
    except ValidationError as error:
        return None, explain(error, schema, tree)


def refuse(findings: Iterable[Finding]) -> None:
    """Raise ConfigError if there is a finding."""
    ordered = sorted(findings, key=lambda finding: finding.position)
    if ordered:
        raise ConfigError("\n".join(str(finding) for finding in ordered))


def resolved(value: Section) -> str:
    """YAML with every value written out, defaults included; loads to the same object again."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    yaml.width = 4096
    text = io.StringIO()
    yaml.dump(value.model_dump(mode="json"), text)
    return text.getvalue()
