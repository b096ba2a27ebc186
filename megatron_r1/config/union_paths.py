"""Which keys an error of pydantic is about: it names unions' members among the keys.

"stages.zero.grpo.optim.lr" is stages.zero.optim.lr, where the tag says grpo; only the annotations can tell a
tag from a key, so they are walked along with the keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAliasType, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from megatron_r1.config.tree import KeyPath


@dataclass(frozen=True, slots=True)
class Place:
    """An error's keys as the user wrote them, what is expected there, and the unions on the way."""

    path: KeyPath
    annotation: Any  # None where it can't be told
    choices: tuple[tuple[KeyPath, str], ...]  # (keys of the union, label of its member)


def as_section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def field_of(section: type[BaseModel], key: str) -> FieldInfo | None:
    """The field that a key sets, by its name or another that is read for it."""
    for name, field in section.model_fields.items():
        alias = field.validation_alias
        if key == name or (isinstance(alias, AliasChoices) and key in alias.choices):
            return field
    return None


def place_of(schema: type[BaseModel], loc: Sequence[str | int]) -> Place:
    annotation: Any = schema
    path: KeyPath = ()
    choices: tuple[tuple[KeyPath, str], ...] = ()
    for step in loc:
        members = members_of(annotation)
        if len(members) > 1:
            choices = (*choices, (path, str(step)))
            annotation = _member(members, str(step))
        elif step != "[key]":
            # a number is an item of a list, or a key, and keys are text in a tree
            path = (*path, str(step) if get_origin(members[0]) is dict else step)
            annotation = _inner(members[0], path[-1])
    return Place(path, annotation, choices)


def members_of(annotation: Any) -> list[Any]:
    """The members of a union but null; of anything else, itself."""
    annotation = _bare(annotation)
    if get_origin(annotation) not in (Union, UnionType):
        return [annotation]
    members = [member for member in get_args(annotation) if member is not NoneType]
    return members_of(members[0]) if len(members) == 1 else members


def _bare(annotation: Any) -> Any:
    while True:
        if isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        elif get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        else:
            return annotation


def _member(members: list[Any], label: str) -> Any:
    """The member that pydantic's label means: a tag, a class name, or such as list[int]."""
    for member in members:
        bare = _bare(member)
        section, origin = as_section(bare), get_origin(bare)
        if section:
            fits = label == section.__name__ or label in _tags(section)
        elif len(members_of(bare)) > 1:
            fits = label.startswith("tagged-union[")
        else:
            fits = isinstance(origin, type) and label.startswith(f"{origin.__name__}[")
        if fits:
            return bare
    return None


def _tags(section: type[BaseModel]) -> list[str]:
    """The values of its one-valued literals, of which one is its tag."""
    literals = [_bare(field.annotation) for field in section.model_fields.values()]
    return [get_args(one)[0] for one in literals if get_origin(one) is Literal and len(get_args(one)) == 1]


def _inner(annotation: Any, step: str | int) -> Any:
    section = as_section(annotation)
    if section:
        field = field_of(section, str(step))
        return field.annotation if field else None
    arguments = get_args(annotation)
    if not arguments:
        return None
    if isinstance(step, str):
        return arguments[-1]
    return arguments[step] if step < len(arguments) and arguments[-1] is not Ellipsis else arguments[0]
