"""Finds what one file adds: stage kinds, rewards, losses, families, sources, trackers, templates.

A module of the folder that defines the folder's constant (STAGE = MyConfigClass) is an entry; without it, it
is a plain helper. No list to edit. Folders are scanned, and their modules imported, when first asked for.
A file of the user's own, a plug-in, is an entry in the same way once `plug_in` has run it. The plug-ins of
one folder are modules of one package, so that they can import each other: `from . import other`.
"""

import ast
import hashlib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from operator import or_
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Discriminator, Field, Tag, create_model

from megatron_r1.errors import ConfigError
from megatron_r1.section import Section

CONSTANTS = ("STAGE", "REWARD", "LOSS", "FAMILY", "SOURCE", "TRACKER", "TEMPLATE", "METRICS", "FINDINGS")


@dataclass(frozen=True, slots=True)
class PlugIn:
    """A user's file. digest: SHA-256 of its text."""

    path: Path
    digest: str
    module: ModuleType


_plug_ins: dict[str, PlugIn] = {}  # by the name of the module
_imported: dict[Path, None] = {}  # files beside plug-ins that these import as they are run, in that order


def plug_in(path: Path) -> None:
    """Run a user's file, and find what it defines from now on. ConfigError: it can't be, and why.

    Sections are made of all that is known when they are first asked for, so this comes before; a file that
    was plugged in already counts.
    """
    if not path.is_file():
        raise ConfigError(f"no such file: {path} (from {Path.cwd()})")
    if not path.stem.isidentifier() or path.suffix != ".py":
        raise ConfigError(f"{path}: a plug-in is called NAME.py, with a name of letters, digits and _")
    text, package = path.read_bytes(), _package_of(path.resolve().parent)
    digest, name = hashlib.sha256(text).hexdigest(), f"{package}.{path.stem}"
    known = next((one for one in _plug_ins.values() if one.path.stem == path.stem), None)
    if known is not None:
        if (known.path, known.digest) != (path.resolve(), digest):
            raise ConfigError(f"{path}: another plug-in of this name is in use, {known.path}; rename one")
        return
    settled = (stages, rewards, losses, families, sources, trackers, templates)
    if any(entries.cache_info().currsize for entries in settled):
        raise ConfigError(
            f"{path}: comes too late, what can be configured is settled; in `plugins`, name files with stages"
            " after those with anything else, and in your own program call plug_in first"
        )
    before = {*sys.modules, name}
    module = sys.modules.get(name) or _run(path, name)  # another plug-in may have imported it
    if not any(constant in vars(module) for constant in CONSTANTS):
        raise ConfigError(f"{path}: defines none of {', '.join(CONSTANTS)}, so it adds nothing")
    _plug_ins[name] = PlugIn(path.resolve(), digest, module)
    imported = (sys.modules.keys() - before) | _siblings(text, package)
    _imported.update(dict.fromkeys(_files_beside(path.resolve().parent, imported)))


def _package_of(folder: Path) -> str:
    """The package that stands for a folder of plug-ins; named alike on every rank."""
    name = f"megatron_r1_plug_ins_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(folder)]
    return name


def _run(path: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    importlib.invalidate_caches()  # files beside it may be new
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file may raise; exit(0) would end us as done
        del sys.modules[name]
        raise ConfigError(f"{path}: can't be run: {type(error).__name__}: {error}") from error
    return module


def _siblings(text: bytes, package: str) -> set[str]:
    """The modules of the package that a plug-in imports, those among them that were there before it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found.update([node.module] if node.module else [alias.name for alias in node.names])
    return {f"{package}.{name}" for name in found} & sys.modules.keys()


def _files_beside(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files of these modules that lie in the folder or below it; not installed packages, not this one."""
    files = (vars(sys.modules[name]).get("__file__") for name in sorted(names))
    found = [Path(file).resolve() for file in files if isinstance(file, str)]
    others = (Path(sys.prefix).resolve(), Path(__file__).resolve().parent)
    return [p for p in found if p.is_relative_to(folder) and not any(map(p.is_relative_to, others))]


def imported_by_plug_ins(*values: Any) -> list[Path]:
    """The files that plug-ins import from beside themselves, where sections are made by a plug-in.

    Below the working directory as a path from there, so that a checkout may be moved.
    """
    here = Path.cwd()
    paths = [path.relative_to(here) if path.is_relative_to(here) else path for path in _imported]
    return paths if plugged_in(*values) else []


def plugged_in(*values: Any, modules: Iterable[ModuleType] = ()) -> dict[str, str]:
    """The plug-ins that sections, and all in them, are made by: file name -> SHA-256 of its text.

    modules: others that count, where they are plug-ins.
    """
    names = {type(section).__module__ for value in values for section in _sections(value)}
    names |= {module.__name__ for module in modules}
    found = [_plug_ins[name] for name in sorted(names) if name in _plug_ins]
    return {one.path.name: one.digest for one in found}


def is_plugged_in(section: BaseModel) -> bool:
    """Whether the section is a plug-in's."""
    return type(section).__module__ in _plug_ins


def _sections(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for _, inner in value:
            yield from _sections(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _sections(inner)


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


@cache
def losses() -> Mapping[str, Entry]:
    """Losses of RL, by `kind`."""
    return scan("megatron_r1.rl", constant="LOSS", discriminator="kind")


@cache
def trackers() -> Mapping[str, Entry]:
    """What metrics are written to besides metrics.jsonl, by the name of their file."""
    return scan("megatron_r1.tracking", constant="TRACKER", discriminator=None)


@cache
def templates() -> Mapping[str, ModuleType]:
    """The modules that define a chat template, by the name of their file."""
    found: dict[str, ModuleType] = {}
    for name, module in _defining("megatron_r1.data.templates", "TEMPLATE"):
        if name in found:
            raise ConfigError(f"{module.__file__}: {name!r} is also in {found[name].__file__}; rename one")
        found[name] = module
    return found


def metric_rows() -> list[tuple[Path, Any]]:
    """The METRICS of plug-ins with their files: rows for tracking/metrics.py, by name."""
    found = [(one.path, vars(one.module).get("METRICS")) for one in _plug_ins.values()]
    return [(path, rows) for path, rows in found if rows is not None]


def findings() -> list[Any]:
    """What plug-ins say of an RL stage in the report: functions (report/findings.py has their type)."""
    return [vars(one.module)["FINDINGS"] for one in _plug_ins.values() if "FINDINGS" in vars(one.module)]


def scan(package: str, *, constant: str, discriminator: str | None) -> dict[str, Entry]:
    """Entries of a package's modules, in the order of the file names, and of plug-ins, by name.

    The name is the value of the discriminator's Literal; without a discriminator, the module's name.
    ConfigError: a module breaks these rules.
    """
    found: dict[str, Entry] = {}
    for file_name, module in _defining(package, constant):
        config = vars(module)[constant]
        where = module.__file__
        if not isinstance(config, type) or not issubclass(config, Section):
            raise ConfigError(f"{where}: {constant} must be a class, derived from Section")
        name = file_name if discriminator is None else _tag(config, discriminator, where=where)
        if name in found:
            raise ConfigError(f"{where}: {name!r} is also in {found[name].module.__file__}; rename one")
        found[name] = Entry(name, config, module)
    return found


def _defining(package: str, constant: str) -> Iterator[tuple[str, ModuleType]]:
    """The modules of a package, in the order of their names, and plug-ins that define the constant."""
    names = [info.name for info in pkgutil.iter_modules(import_module(package).__path__)]
    modules = [(name, import_module(f"{package}.{name}")) for name in names]
    own = [(one.path.stem, one.module) for one in _plug_ins.values()]
    return ((name, module) for name, module in (*modules, *own) if constant in vars(module))


def _tag(config: type[Section], discriminator: str, *, where: str | None) -> str:
    field = config.model_fields.get(discriminator)
    values = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    if len(values) != 1:
        raise ConfigError(f'{where}: {config.__name__} must have {discriminator}: Literal["its_name"]')
    return values[0]


def union(entries: Mapping[str, Entry], discriminator: str, *, default: str | None = None) -> Any:
    """The type of a field that takes any of the entries, told apart by the discriminator.

    default: the entry that is meant where the discriminator is left out; None: it must be there.
    """
    configs = [entry.config for entry in entries.values()]
    assert configs, f"no entry with a {discriminator}"
    if len(configs) == 1:
        return configs[0]
    if default is None:
        return Annotated[reduce(or_, configs), Field(discriminator=discriminator)]

    def tag(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return getattr(value, discriminator, default)
        return value.get(discriminator, default) if isinstance(value, dict) else default

    tag.__name__ = discriminator  # which errors name
    tagged = [Annotated[entry.config, Tag(name)] for name, entry in entries.items()]
    return Annotated[reduce(or_, tagged), Discriminator(tag)]


def by_name(entries: Mapping[str, Entry], title: str) -> type[Section]:
    """A section with one optional key an entry: {accuracy: {weight: 1}, format: {}}."""
    fields: dict[str, Any] = {
        name: (entry.config | None, Field(default=None, description=entry.config.__doc__))
        for name, entry in entries.items()
    }
    return create_model(title, __base__=Section, **fields)
