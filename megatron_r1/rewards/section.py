"""What every reward is: a section of the configuration that builds a scorer.

A module of this folder that defines `REWARD = ItsConfigClass` is a reward, named as the module; the
registry finds it by scanning.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field

from megatron_r1.config.section import Section
from megatron_r1.types import Completion, Score


class Reward(Protocol):
    """Judges completions. One score a completion, in order; value None where it can't be judged."""

    def score(self, completions: Sequence[Completion]) -> list[Score]: ...


class RewardConfig(Section):
    """One entry under `rewards:`."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """Factor of this reward in the weighted sum."""

    @abstractmethod
    def build(self) -> Reward:
        """Make the scorer; may start nothing heavy before the first score."""
