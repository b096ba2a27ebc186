"""Keys and forms that mean the same in several sections, written in one form and read in both.

Outputs a prompt are `samples` everywhere (`group_size` is the name that GRPO's papers have); the longest
output is a number, and a mapping of updates to numbers where it changes.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field

SAMPLES, GROUP_SIZE = "samples", "group_size"
LENGTHS = "max_new_tokens"
SAMPLES_OR_GROUP_SIZE = AliasChoices(SAMPLES, GROUP_SIZE)
_KINDS = ("grpo", "on_policy_distillation", "rejection_sampling")


def same_as(key: str | int, section: Mapping[str, Any], *, name: str | int | None) -> str | None:
    """The other spelling of a key of this section, which `name` leads to; None: it has no other."""
    if section.get("kind") not in _KINDS and name != "evaluation":
        return None
    return {SAMPLES: GROUP_SIZE, GROUP_SIZE: SAMPLES}.get(str(key))


def schedule(value: Any) -> Any:
    """A number, or updates and numbers, as {steps: {update: number}}."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"steps": {"0": value}}
    if isinstance(value, dict) and value and all(str(key).isdecimal() for key in value):
        return {"steps": value}
    return value


def _one_number(value: Any) -> Any:
    """A schedule of one entry is a number."""
    steps = schedule(value)
    steps = steps.get("steps") if isinstance(steps, dict) and list(steps) == ["steps"] else None
    if not isinstance(steps, dict):
        return value
    if [str(key) for key in steps] != ["0"]:
        raise ValueError(f"must be one number here; only grpo changes it with its updates, got {value}")
    return next(iter(steps.values()))


MaxNewTokens = Annotated[int, BeforeValidator(_one_number), Field(ge=1)]
