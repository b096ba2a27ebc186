"""What changes over a run of RL: the length limit, the reference, and the split of a rollout into updates.

DeepSeek-R1 (2501.12948): the limit doubles at update 8.2k, the reference becomes the policy every 400
updates, and each rollout of 8,192 outputs is shuffled into 16 mini-batches for one inner epoch.
Updates are counted from 0; "after n updates" means before update n.
"""

from hashlib import blake2b
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from megatron_r1.config.spelling import schedule
from megatron_r1.section import Section


class LengthSchedule(Section):
    """The longest response in tokens, stepwise over the updates."""

    steps: dict[int, PositiveInt] = Field(default={0: 32768, 8200: 65536})
    """Update -> limit from that update on, e.g. {0: 32768, 8200: 65536}; must have update 0."""

    @field_validator("steps", mode="before")
    @classmethod
    def _numbers_as_keys(cls, value: Any) -> Any:
        """The keys of a YAML mapping arrive as text."""
        if not isinstance(value, dict):
            return value
        return {int(key) if isinstance(key, str) and key.isdecimal() else key: v for key, v in value.items()}

    @model_validator(mode="after")
    def _starts_at_zero(self) -> Self:
        if min(self.steps, default=-1) != 0:
            raise ValueError(f"steps={self.steps} must begin with update 0 and have no negative update")
        return self

    def at(self, update: int) -> int:
        """The limit in force after `update` updates."""
        return self.steps[max(start for start in self.steps if start <= update)]


Lengths = Annotated[
    LengthSchedule,
    BeforeValidator(schedule, json_schema_input_type=PositiveInt | dict[int, PositiveInt] | LengthSchedule),
]


def reference_is_due(*, before: int, after: int, every: int | None) -> bool:
    """Whether the reference is to be refreshed now that a rollout took the count from `before` to `after`.

    The outputs of a rollout are scored against one reference, so it is replaced between rollouts: at the
    first boundary at or past each multiple of `every`. None: never.
    """
    return every is not None and after // every > before // every


def split_updates(
    num_outputs: int, num_updates: int, *, seed: int, step: int, inner_epochs: int = 1
) -> list[list[int]]:
    """Indices of the outputs of each update: every output once an inner epoch, each epoch in its own order.

    num_updates: mini-batches an epoch; sizes differ by at most one. Fewer outputs than updates give as
    many updates as outputs, none empty: with several copies of the model pass the number over all of them,
    so that they agree on the count. The order depends on (seed, step, epoch) alone, in any version of
    Python and torch, so a resumed run has the same mini-batches.
    """
    assert num_updates >= 1, f"{num_updates=}"
    if num_outputs == 0:
        return []
    num_updates = min(num_updates, num_outputs)
    updates = []
    for epoch in range(inner_epochs):
        order = sorted(range(num_outputs), key=lambda index: _draw(seed, step, epoch, index))
        bounds = [update * num_outputs // num_updates for update in range(num_updates + 1)]
        updates += [order[start:stop] for start, stop in pairwise(bounds)]
    return updates


def _draw(*numbers: int) -> bytes:
    return blake2b(repr(numbers).encode(), digest_size=16).digest()
