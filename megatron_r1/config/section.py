"""The base class of every configuration section: strict, frozen, no unknown keys, self-documented.

Strict means that a YAML `true` is not 1 and "1" is not 1; an int is accepted where a float is asked.
The string under an attribute is its description: the JSON schema and the error messages show it.
A section with a `before` validator, and all inside it, can take no tuple and no Path: pydantic then reads
Python values, where strict lets no list stand for a tuple. Use list and str there.
"""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One mapping of a configuration file."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="constants",  # an infinity in a resolved file must not come back as null
    )
