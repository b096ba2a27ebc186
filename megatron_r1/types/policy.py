"""The protocols between the packages: the model as stages see it, and the copies of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from megatron_r1.types.rollout import Begun, Sampled, Sampling
from megatron_r1.types.training import LossFunction, OptimizerOptions, ScoreLoss, StepStats, TrainSequence


@dataclass(frozen=True, slots=True)
class Refits:
    """Copies of the weights into the layout of the rollout: how many, bytes between ranks, and seconds."""

    count: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Refits") -> "Refits":
        return Refits(
            self.count + other.count, self.num_bytes + other.num_bytes, self.seconds + other.seconds
        )

    def __sub__(self, other: "Refits") -> "Refits":
        return Refits(
            self.count - other.count, self.num_bytes - other.num_bytes, self.seconds - other.seconds
        )


class Replicas(Protocol):
    """Communication between the copies of the model (data-parallel ranks), for stages.

    All ranks of one copy (its tensor, pipeline and context ranks) run the same stage code on the same data.
    """

    index: int  # of this copy, 0 .. count - 1
    count: int
    is_main: bool  # this rank writes files and logs
    leads: bool  # this rank speaks for its copy: `share` calls `make` here

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add up over the copies; every rank gets the result. The keys must agree."""
        ...

    def gather(self, items: Sequence[Any]) -> list[Any]:
        """All copies' items, in the order of the copies, on every rank."""
        ...

    def exchange(self, outgoing: Sequence[Sequence[Any]]) -> list[Any]:
        """outgoing[i] goes to copy i; returns what came from all copies, in their order."""
        ...

    def share(self, make: Callable[[], Any]) -> Any:
        """Call `make` once a copy and give its result to all ranks of the copy."""
        ...

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; every rank gets the answer."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...


OnEnd = Callable[[int, list[int]], None]  # an output's place, its token ids


class Policy(Protocol):
    """The model as stages see it: sampled from, scored with, trained, saved. Never Megatron's own types."""

    version: int  # +1 with every update
    refits: Refits  # so far

    @property
    def replicas(self) -> Replicas:
        """The copies of the model."""
        ...

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int],
        begun: Sequence[Begun] | None = None,
        on_end: OnEnd | None = None,
    ) -> list[Sampled]:
        """One output for each of this copy's prompts.

        keys: one number a prompt that, with sampling.seed, decides its random draws in any layout. begun: how
        far each output is; None: nothing is there, and all are due. on_end: may be told of each output as
        it ends, by its place among the prompts; not every engine does.
        """
        ...

    def logprobs(
        self, sequences: Sequence[TrainSequence], *, reference: bool = False, temperature: float = 1.0
    ) -> list[Tensor]:
        """[S] float32 for each sequence: log-prob of token i given those before it (first 0).

        Where the weight is 0, it may be 0 as well (prompt_logits)."""
        ...

    def refresh_reference(self) -> None:
        """The reference becomes a copy of the weights as they are now."""
        ...

    def start_training(self, options: OptimizerOptions) -> None:
        """Make a new optimizer for the weights as they are."""
        ...

    def train_step(
        self,
        sequences: Sequence[TrainSequence],
        loss: LossFunction,
        *,
        lr: float,
        temperature: float = 1.0,
        entropy: bool = False,
        mtp: bool = False,
    ) -> StepStats:
        """One optimizer update on this copy's sequences (one at least); gradients are summed over the copies.

        entropy: measure it and hand it to the loss. mtp: add the MTP loss, if the model has the layers.
        """
        ...

    def save(self, directory: Path, state: Mapping[str, Any]) -> None:
        """Write weights, optimizer, random state and the stage's own `state` as one complete checkpoint."""
        ...

    def load(self, directory: Path, *, weights_only: bool = False) -> dict[str, Any]:
        """Read a checkpoint of any layout; returns the stage's `state`."""
        ...


class Scorer(Protocol):
    """A model that gives a whole sequence one number: a reward model as stages and rewards see it."""

    @property
    def replicas(self) -> Replicas:
        """The copies of the model."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """One number for each of this copy's sequences of token ids; collective, none included."""
        ...

    def train_step(self, sequences: Sequence[Sequence[int]], loss: ScoreLoss, *, lr: float) -> StepStats:
        """One optimizer update on this copy's sequences (one at least); gradients are summed over copies."""
        ...
