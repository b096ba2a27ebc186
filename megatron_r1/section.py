"""The base class of every configuration section: strict, frozen, no unknown keys, self-documented.

Strict means that a YAML `true` is not 1 and "1" is not 1; an int is accepted where a float is asked.
Numbers are finite: a field that means something by infinity says allow_inf_nan=True.
The string under an attribute is its description: the JSON schema and the error messages show it.
A section with a `before` validator, and all inside it, can take no tuple and no Path: pydantic then reads
Python values, where strict lets no list stand for a tuple. Use list and str there.

A field decides the result, unless it is marked: `Annotated[int, NO_EFFECT]`. A finished stage is not taken
for done where a value that decides has changed, so a new field is safe without a thought.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict


class Mark(Enum):
    """What a field's annotation says besides its type."""

    NO_EFFECT = "the result is the same whatever the value"


NO_EFFECT = Mark.NO_EFFECT


class Section(BaseModel):
    """One mapping of a configuration file."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # an infinity that a field allows must not come back as null
    )


def deciding(section: Section) -> dict[str, Any]:
    """The values of a section, and of all in it, that decide the result: as plain values, by key."""
    return only_deciding(section, section.model_dump(mode="json"))


def only_deciding(section: Any, dumped: Any) -> Any:
    """`dumped` without the keys that `section` marks as NO_EFFECT; it may be an older version's."""
    if isinstance(section, BaseModel) and isinstance(dumped, Mapping):
        return {
            name: only_deciding(getattr(section, name, None), value)
            for name, value in dumped.items()
            if not has_no_effect(section, name)
        }
    if isinstance(section, Mapping) and isinstance(dumped, Mapping):
        inner = {str(key): value for key, value in section.items()}
        return {name: only_deciding(inner.get(name), value) for name, value in dumped.items()}
    if isinstance(section, list | tuple) and isinstance(dumped, list) and len(section) == len(dumped):
        return [only_deciding(one, value) for one, value in zip(section, dumped, strict=True)]
    return dumped


def has_no_effect(section: BaseModel, name: str) -> bool:
    """Whether the field is marked NO_EFFECT."""
    field = type(section).model_fields.get(name)
    return field is not None and NO_EFFECT in field.metadata
