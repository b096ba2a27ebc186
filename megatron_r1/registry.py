"""Finds what can be added by one file: stage kinds, rewards, model families, data sources.

A module of the folder that defines the folder's constant (STAGE = MyConfigClass) is an entry; without it, it
is a plain helper. No list to edit. Folders are scanned, and their modules imported, when first asked for.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from importlib import import_module
from operator import or_
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, create_model

from megatron_r1.config.section import Section


@dataclass(frozen=True, slots=True)
class Entry:
    """One file's contribution: its section of the configuration, and the module with the rest."""

    name: str
    config: type[Section]
    module: ModuleType


@cache
def stages() -> Mapping[str, Entry]:
    """Stage kinds, by `kind`."""
    return scan("megatron_r1.stages", constant="STAGE", discriminator="kind")


@cache
def rewards() -> Mapping[str, Entry]:
    """Rewards, by the name of their file."""
    return scan("megatron_r1.rewards", constant="REWARD", discriminator=None)


@cache
def families() -> Mapping[str, Entry]:
    """Model families, by `family`."""
    return scan("megatron_r1.models", constant="FAMILY", discriminator="family")


@cache
def sources() -> Mapping[str, Entry]:
    """Data sources, by `source`."""
    return scan("megatron_r1.data.sources", constant="SOURCE", discriminator="source")


def scan(package: str, *, constant: str, discriminator: str | None) -> dict[str, Entry]:
    """Entries of a package's modules, by name, in the order of the file names.

    The name is the value of the discriminator's Literal; without a discriminator, the module's name.
    """
    found: dict[str, Entry] = {}
    for info in pkgutil.iter_modules(import_module(package).__path__):
        module = import_module(f"{package}.{info.name}")
        config = vars(module).get(constant)
        if config is None:
            continue
        assert isinstance(config, type), f"{module.__name__}: {constant} must be a class"
        assert issubclass(config, Section), f"{module.__name__}: {constant} must be a Section"
        name = info.name if discriminator is None else _tag(config, discriminator)
        assert name not in found, f"{module.__name__}: {name!r} is also in {found[name].module.__name__}"
        found[name] = Entry(name, config, module)
    return found


def _tag(config: type[Section], discriminator: str) -> str:
    field = config.model_fields.get(discriminator)
    values = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    assert len(values) == 1, f'{config.__name__} must have {discriminator}: Literal["its_name"]'
    return values[0]


def union(entries: Mapping[str, Entry], discriminator: str) -> Any:
    """The type of a field that takes any of the entries, told apart by the discriminator."""
    configs = [entry.config for entry in entries.values()]
    assert configs, f"no entry with a {discriminator}"
    if len(configs) == 1:
        return configs[0]
    return Annotated[reduce(or_, configs), Field(discriminator=discriminator)]


def by_name(entries: Mapping[str, Entry], title: str) -> type[Section]:
    """A section with one optional key an entry: {accuracy: {weight: 1}, format: {}}."""
    fields: dict[str, Any] = {
        name: (entry.config | None, Field(default=None, description=entry.config.__doc__))
        for name, entry in entries.items()
    }
    return create_model(title, __base__=Section, **fields)
