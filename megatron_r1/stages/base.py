"""The base class of every stage's section: what the chain, `check` and a plan need to know of a stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_r1.data.sources.stage import stage_outputs
from megatron_r1.section import Section

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig
    from megatron_r1.stages.context import StageContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one step asks of the machine over all replicas, at most: outputs are taken at their full length.

    updates: optimizer updates. trained_tokens: through forward and backward, over all updates.
    scored_passes: forward passes over the same tokens (old log-probs, reference). pack_tokens: of a
    micro-batch. mtp: with the MTP loss. reference: a second set of weights is kept. outputs, output_tokens:
    sampled, and the longest of them. checkpoints: in the whole stage. other_models: the stages whose models
    are kept beside the policy: reward models, judges. max_off_policy_steps: that outputs begin before
    they are due.
    """

    steps: int
    updates: int = 0
    trained_tokens: int = 0
    scored_passes: int = 0
    pack_tokens: int = 0
    mtp: bool = False
    reference: bool = False
    outputs: int = 0
    output_tokens: int = 0
    max_off_policy_steps: int = 0
    checkpoints: int = 0
    other_models: tuple[str, ...] = ()


class StageConfig(Section):
    """One stage of the chain; `kind` is narrowed to the stage's name."""

    kind: str
    """Which kind of stage: the name of a file's STAGE in megatron_r1/stages."""

    init: str | None = None
    """The weights to start from: the name of an earlier stage, hf:PATH, or null for random ones."""

    model: str | None = None
    """Which of the run's `models`; null: the model of the stage that `init` names, else the run's `model`."""

    @property
    def trains_scores(self) -> bool:
        """Whether the stage's model has a scalar head instead of a vocabulary: it is then a Scorer."""
        return False

    @property
    def makes_data(self) -> bool:
        """Whether the stage may leave lines that `{source: stage}` reads."""
        return True

    def run(self, context: StageContext) -> dict[str, float]:
        """Do the stage; returns the metrics of its artifact."""
        raise NotImplementedError(f"{type(self).__name__}.run")

    def done_before(self, directory: Path) -> int:
        """Steps of an earlier, interrupted start that the stage's files hold, where no checkpoint does."""
        return 0

    def inputs(self) -> list[str]:
        """The earlier stages that this one needs: for its weights, and for its data."""
        init = [] if self.init is None or self.init.startswith("hf:") else [self.init]
        return list(dict.fromkeys([*init, *(source.stage for source in stage_outputs(self))]))

    def problems(self, run: RunConfig) -> list[str]:
        """What is wrong with this stage in this run, apart from its types; run.layout has a replica at least.

        Each is "key: what, the value, the remedy"; `key` is relative to the stage ("optim.lr"), so that
        the report can give the file and the line. Without a key it concerns the stage as a whole.
        """
        return []

    def warnings(self, run: RunConfig) -> list[str]:
        """What will run but is likely not meant."""
        return []

    def batch_table(self, run: RunConfig) -> list[tuple[str, str]]:
        """The stage's batch as arithmetic: ("outputs a step", "32 questions x 16 outputs = 512")."""
        return []

    def demand(self, run: RunConfig) -> Demand | None:
        """What a step asks of the machine, for the plan; None: this kind can't be planned yet."""
        return None


def earlier_stages(stage: StageConfig, run: RunConfig) -> list[str]:
    """The names of the stages before this one."""
    names = list(run.stages)
    return next((names[:i] for i, name in enumerate(names) if run.stages[name] is stage), [])


def too_long(key: str, num_tokens: int, run: RunConfig) -> list[str]:
    """What is wrong with outputs or windows of so many tokens: the model's positions must hold them."""
    positions = run.model.max_position_embeddings
    if num_tokens < positions:
        return []
    return [
        f"{key}: {num_tokens} tokens and what precedes them don't fit model.max_position_embeddings = "
        f"{positions}; shorten them, or raise it if the model was trained for more"
    ]
