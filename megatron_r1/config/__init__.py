"""Configuration: a YAML file with inheritance and overrides in, one validated frozen object out."""

from megatron_r1.config.loading import Loaded, load, read, refuse, resolved, validated
from megatron_r1.config.schema import json_schema
from megatron_r1.section import Section

__all__ = ["Loaded", "Section", "json_schema", "load", "read", "refuse", "resolved", "validated"]
