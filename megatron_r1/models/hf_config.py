"""Reader of Hugging Face's config.json for the families: checks each key and collects all refusals.

RoPE has two spellings: `rope_theta` beside `rope_scaling` (all released models), and the mapping
`rope_parameters` (transformers 5). `rope` returns both in the first form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_r1.errors import ConfigError

LARGEST_SIZE = 1 << 31
MOST_LAYERS = 10_000  # more than any real model has
LARGEST_NUMBER = 1e15
LONGEST_VALUE = 80  # characters of a value in a message


@dataclass(slots=True)
class HfConfig:
    """The content of a config.json. `refusals` collects what can't be converted; `finish` raises them."""

    values: Mapping[str, Any]
    refusals: list[str] = field(default_factory=list)
    _reported: set[str] = field(default_factory=set)

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def integer(self, key: str, default: int | None = None) -> Any:
        """A whole number >= 0; a missing or null key gives the default, or without one a refusal."""
        found = self.optional_integer(key) if key in self.values else None
        if found is None and default is None and key not in self._reported:
            self.refuse(f"{key} is missing")
        return (default or 0) if found is None else found

    def size(self, key: str, *, most: int = LARGEST_SIZE) -> int:
        """A required whole number from 1 to `most`; 1 if it is refused."""
        before = len(self.refusals)
        found = self.integer(key)
        if len(self.refusals) == before and not 1 <= found <= most:
            self.refuse(f"{key}={_short(found)} is not between 1 and {most:,}")
        return found if len(self.refusals) == before else 1

    def optional_integer(self, key: str) -> int | None:
        """As `integer`, but None for a missing or null key."""
        value = self.values.get(key)
        if value is None or (type(value) is int and 0 <= value <= LARGEST_SIZE):
            return value
        self._reported.add(key)
        self.refuse(f"{key}={_short(value)} is no whole number from 0 to {LARGEST_SIZE:,}")
        return None

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(f"{key} is missing" if value is None else f"{key}={_short(value)} is no number")
            return 0.0
        if not abs(value) <= LARGEST_NUMBER:
            self.refuse(f"{key}={_short(value)} is not a finite number")
            return 0.0
        return float(value)

    def positive(self, key: str, default: float | None = None, *, most: float = LARGEST_NUMBER) -> float:
        """A finite number above 0; 1 if it is refused."""
        before = len(self.refusals)
        found = self.number(key, default)
        if len(self.refusals) == before and not 0.0 < found <= most:
            what = "must be above 0" if most == LARGEST_NUMBER else f"must be above 0 and at most {most:g}"
            self.refuse(f"{key}={found:g} {what}")
        return found if len(self.refusals) == before else 1.0

    def flag(self, key: str, *, default: bool) -> bool:
        """true or false; a missing or null key gives the default."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            self.refuse(f"{key}={_short(value)} is neither true nor false")
        return default if value is None else bool(value)

    def needs(self, *keys: str) -> None:
        """Refuse the configuration if a key is missing; null is allowed."""
        for key in keys:
            if key not in self.values:
                self.refuse(f"{key} is missing")

    def require(self, key: str, wanted: Any, *, why: str) -> None:
        """Refuse any value but `wanted`; a missing or null key is accepted."""
        value = self.values.get(key)
        if value is not None and value != wanted:
            self.refuse(f"{key}={_short(value)}: {why}; only {wanted!r} can be converted")

    def refuse(self, text: str) -> None:
        self.refusals.append(text)

    def rotated_share(self, default: float) -> float:
        """Share of a head's channels that RoPE turns, in either spelling."""
        joint = self.values.get("rope_parameters")
        if isinstance(joint, Mapping) and joint.get("partial_rotary_factor") is not None:
            return HfConfig(joint, self.refusals).positive("partial_rotary_factor", most=1.0)
        return self.positive("partial_rotary_factor", default, most=1.0)

    def rope(self, default_theta: float, *, partial: bool = False) -> tuple[float, dict[str, Any] | None]:
        """(theta, scaling): scaling holds `type` and its numbers; None without rescaling.

        partial: RoPE may turn a part of each head.
        """
        joint = self.values.get("rope_parameters")
        scaling = joint if joint is not None else self.values.get("rope_scaling")
        if scaling is not None and not isinstance(scaling, Mapping):
            self.refuse(f"rope_scaling={_short(scaling)} is no mapping")
            scaling = None
        scaling = dict(scaling or {})
        nested = sorted(key for key, value in scaling.items() if isinstance(value, Mapping))
        if nested:
            self.refuse(f"rope_parameters of {', '.join(nested)}: one rule for all layers can be converted")
        inside = scaling.get("rope_theta") is not None
        holder = HfConfig(scaling, self.refusals) if inside else self
        theta = holder.positive("rope_theta", default_theta)
        scaling.pop("rope_theta", None)
        kind = scaling.pop("rope_type", None) or scaling.pop("type", None)
        scaling.pop("type", None)
        rest = sorted(scaling.keys() - {"partial_rotary_factor"})
        if kind is None and rest and not nested:
            self.refuse(f"rope_scaling sets {', '.join(map(str, rest))} and names no rope_type")
        kind = kind or "default"
        for values in (scaling, self.values):
            if not partial and values.get("partial_rotary_factor") not in (None, 1.0):
                self.refuse("partial_rotary_factor: these families rotate whole heads")
        scaling.pop("partial_rotary_factor", None)
        return theta, None if kind == "default" else {"type": str(kind), **scaling}

    def finish(self, architecture: str) -> None:
        """Raise ConfigError with all refusals, if there are any."""
        if self.refusals:
            raise ConfigError(
                f"{architecture}: this configuration can't be converted: {'; '.join(self.refusals)}"
            )


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**LONGEST_VALUE:
        return "a number of more than 80 digits"
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def write_rope(theta: float, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    """RoPE's keys as every version of transformers reads them: older ones `type`, newer ones `rope_type`."""
    if scaling is None:
        return {"rope_theta": theta, "rope_scaling": None}
    kind = scaling["type"]
    return {"rope_theta": theta, "rope_scaling": {**scaling, "rope_type": kind}}
