"""Keys and forms that mean the same in several sections, and the bounds of values that several have.

Outputs a prompt are `samples` everywhere (`group_size` is the name that GRPO's papers have); the longest
output is a number, and a mapping of updates to numbers where it changes. Each is written in one form and read
in both.

A bound stands where a value beyond it is certainly a slip: above a temperature of 100 every token is drawn
alike, below 0.01 the likeliest one is.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field

SAMPLES, GROUP_SIZE = "samples", "group_size"
LENGTHS = "max_new_tokens"
SAMPLES_OR_GROUP_SIZE = AliasChoices(SAMPLES, GROUP_SIZE)
_KINDS = ("grpo", "on_policy_distillation", "rejection_sampling")


def same_as(key: str | int, section: Mapping[str, Any], *, name: str | int | None) -> str | None:
    """The other spelling of a key of this section, which `name` leads to; None: it has no other."""
    if section.get("kind") not in _KINDS and name != "evaluation":
        return None
    return {SAMPLES: GROUP_SIZE, GROUP_SIZE: SAMPLES}.get(str(key))


# old keys and their names of now, both within the section that had them
RENAMED = {
    "rollout_layout": "rollout.layout",
    "rollout_engine": "rollout.engine",
    "rollout_rows": "rollout.max_concurrent",
    "rollout_speculation": "rollout.speculation",
    "rollout_precision": "rollout.precision",
    "rollout_cuda_graphs": "rollout.cuda_graphs",
    "steps_ahead": "rollout.max_off_policy_steps",
    "rewards_beside": "rollout.overlap_rewards",
}


def with_new_names(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section that an older version wrote, with the keys of now."""
    found = {key: value for key, value in section.items() if key not in RENAMED}
    for old in RENAMED.keys() & section.keys():
        outer, key = RENAMED[old].split(".")
        found[outer] = {**found.get(outer, {}), key: section[old]}
    return found


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


COLDEST, HOTTEST = 0.01, 100.0
MOST_STEPS = 10**9  # a step a second is 30 years of them
MOST_ITEMS = 10**9  # questions, documents, samples of one step
MOST_TOKENS_PER_PACK = 2**26
MOST_EPOCHS = 10**6
LONGEST_S = 10**8  # three years, which the clocks of all libraries can hold


def _greedy_or_warm(value: float) -> float:
    if 0 < value < COLDEST:
        raise ValueError(f"must be 0, which takes the most likely token, or at least {COLDEST}, got {value}")
    return value


Temperature = Annotated[float, Field(ge=COLDEST, le=HOTTEST)]
TemperatureOrGreedy = Annotated[float, Field(ge=0, le=HOTTEST), AfterValidator(_greedy_or_warm)]
