"""The JSON schema of a configuration, for completion and descriptions in editors.

A YAML file names it in its first line: `# yaml-language-server: $schema=schema.json`. It is looser than the
loader: a file may leave out what its base gives, so no key is required, and a mapping without its kind may
be any kind. `check` is strict.
"""

from typing import Any

from megatron_r1.config.merge import BASE
from megatron_r1.section import Section


def json_schema(model: type[Section]) -> dict[str, Any]:
    schema = _loosened(model.model_json_schema())
    base = {"type": "string", "description": "A file to inherit from, relative to this one."}
    schema["properties"] = {BASE: base, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _loosened(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_loosened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    loose = {"anyOf" if key == "oneOf" else key: _loosened(value) for key, value in schema.items()}
    loose.pop("discriminator", None)
    if isinstance(loose.get("required"), list):
        del loose["required"]
    return loose
