"""A config.json of Hugging Face as the families read it: every key by name, and every refusal at once.

Two spellings of RoPE are in use: `rope_theta` beside `rope_scaling` (all released models) and one mapping
`rope_parameters` (transformers 5 writes it). `rope` gives both in the first form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_r1.errors import ConfigError


@dataclass(slots=True)
class HfConfig:
    """The content of a config.json. `refusals` collects what can't be converted; `finish` raises them."""

    values: Mapping[str, Any]
    refusals: list[str] = field(default_factory=list)
    _reported: set[str] = field(default_factory=set)

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def integer(self, key: str, default: int | None = None) -> Any:
        """A whole number of at least 0; a missing or null key gives the default, or a refusal without one."""
        found = self.optional_integer(key) if key in self.values else None
        if found is None and default is None and key not in self._reported:
            self.refuse(f"{key} is missing")
        return (default or 0) if found is None else found

    def optional_integer(self, key: str) -> int | None:
        """As `integer`, but null means none, and so does a missing key."""
        value = self.values.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        self._reported.add(key)
        self.refuse(f"{key}={value!r} is no whole number")
        return None

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(f"{key} is missing" if value is None else f"{key}={value!r} is no number")
            return 0.0
        return float(value)

    def needs(self, *keys: str) -> None:
        """Refuse the configuration if one of the keys is not written out, though it may be null."""
        for key in keys:
            if key not in self.values:
                self.refuse(f"{key} is missing")

    def require(self, key: str, wanted: Any, *, why: str) -> None:
        """Refuse any other value than `wanted`; a missing or null key is fine."""
        value = self.values.get(key)
        if value is not None and value != wanted:
            self.refuse(f"{key}={value!r}: {why}; only {wanted!r} can be converted")

    def refuse(self, text: str) -> None:
        self.refusals.append(text)

    def rope(self, default_theta: float) -> tuple[float, dict[str, Any] | None]:
        """(theta, scaling): scaling has `type` besides its numbers; None where nothing is rescaled."""
        joint = self.values.get("rope_parameters")
        scaling = joint if joint is not None else self.values.get("rope_scaling")
        if scaling is not None and not isinstance(scaling, Mapping):
            self.refuse(f"rope_scaling={scaling!r} is no mapping")
            scaling = None
        scaling = dict(scaling or {})
        inner = scaling.pop("rope_theta", None)
        theta = self.number("rope_theta", default_theta) if inner is None else inner
        kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
        scaling.pop("type", None)
        for holder in (scaling, self.values):
            if holder.get("partial_rotary_factor", 1.0) != 1.0:
                self.refuse("partial_rotary_factor: these families rotate whole heads")
        scaling.pop("partial_rotary_factor", None)
        return float(theta), None if kind == "default" else {"type": kind, **scaling}

    def finish(self, architecture: str) -> None:
        """Raises ConfigError with all refusals."""
        if self.refusals:
            raise ConfigError(
                f"{architecture}: this configuration can't be converted: {'; '.join(self.refusals)}"
            )


def write_rope(theta: float, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys of RoPE in the spelling that every version of transformers reads.

    `type` and `rope_type` both: older and newer readers look for one of them.
    """
    if scaling is None:
        return {"rope_theta": theta, "rope_scaling": None}
    kind = scaling["type"]
    return {"rope_theta": theta, "rope_scaling": {**scaling, "rope_type": kind}}
