"""The base class of every configuration section: strict, frozen, no unknown keys, self-documented.

Strict means that a YAML `true` is not 1 and "1" is not 1; an int is accepted where a float is asked.
Numbers are finite: a field that means something by infinity says allow_inf_nan=True.
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
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # an infinity that a field allows must not come back as null
    )
