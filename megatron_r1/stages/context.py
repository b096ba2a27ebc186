"""What a stage is given to work with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from megatron_r1.data.chat_template import ChatTemplate
from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.stages.text_scorer import TextScorer
from megatron_r1.types import Policy, Scored, Scorer

Speaker = tuple[Policy, ChatTemplate, Tokenizer]  # a model with what turns text into its tokens


class Journal(Protocol):
    """The stage's directory: metrics, samples, checkpoints, and whether to stop."""

    def expect(self, steps: int) -> None:
        """How many steps the stage has, where its section does not say."""
        ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is done (they count from 1); its metrics are the same on every rank."""
        ...

    def samples(self, step: int, scored: Sequence[Scored]) -> None:
        """Keep this replica's samples; collective."""
        ...

    def checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a numbered checkpoint after step `step`; collective."""
        ...

    def stop_here(self) -> bool:
        """Whether all ranks are to write a checkpoint and end; collective."""
        ...


def no_reward_models(stage: str) -> TextScorer:
    raise AssertionError(f"no reward model {stage} here")


def no_policies(stage: str) -> Speaker:
    raise AssertionError(f"no policy {stage} here")


@dataclass(frozen=True, slots=True)
class StageContext:
    """The model and the surroundings of one stage."""

    name: str
    seed: int
    policy: Policy
    tokenizer: Tokenizer
    template: ChatTemplate
    journal: Journal
    directory: Path = Path()  # of the stage, shared by all ranks; the main rank writes
    weights: str = ""  # hash of the weights that the stage starts from; "" for random ones
    scorer: Scorer | None = None  # the policy as a reward model, for a stage that trains one
    reward_models: Callable[[str], TextScorer] = (
        no_reward_models  # by the stage that trained them; collective
    )
    policies: Callable[[str], Speaker] = no_policies  # the language model of an earlier stage; collective
    total_steps: int = 0
    start_step: int = 0  # steps done before, when resumed
    state: Mapping[str, Any] = field(default_factory=dict)  # as the checkpoint had it
