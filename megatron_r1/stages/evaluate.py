"""The evaluate stage: a checkpoint on held-out questions, by rules and by reward models."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from megatron_r1.stages.base import Demand, StageConfig, too_long
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import Evaluation, evaluate

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig


class Evaluate(StageConfig):
    """Measure the model that `init` names; nothing is trained."""

    kind: Literal["evaluate"]
    evaluation: Evaluation
    """The questions and how to sample."""
    models: dict[str, str] = Field(default_factory=dict)
    """Earlier reward_model stages, by a name of your choice, whose scores of the responses are reported."""

    def problems(self, run: "RunConfig") -> list[str]:
        names = [name for name, one in run.stages.items() if one is self]
        earlier = list(run.stages)[: list(run.stages).index(names[0])] if names else []
        known = [name for name in earlier if run.stages[name].kind == "reward_model"]
        unknown = [
            f"models.{name}: {stage!r} is no earlier reward_model stage; there are "
            f"{', '.join(known) or 'none'}"
            for name, stage in self.models.items()
            if stage not in known
        ]
        return unknown + too_long("evaluation.max_new_tokens", self.evaluation.max_new_tokens, run)

    @property
    def makes_data(self) -> bool:
        return False

    def inputs(self) -> list[str]:
        """The reward models decide the figures as well."""
        return list(dict.fromkeys([*super().inputs(), *self.models.values()]))

    def batch_table(self, run: "RunConfig") -> list[tuple[str, str]]:
        ours = self.evaluation
        total, copies = ours.questions * ours.samples, run.layout.data
        mine = -(-ours.questions // copies) * ours.samples
        greedy = f", and {ours.questions} greedy" if ours.greedy else ""
        return [
            ("samples", f"{ours.questions} questions x {ours.samples} samples = {total}{greedy}"),
            ("samples a replica", f"{total} / {copies} replicas = {mine}"),
        ]

    def demand(self, run: "RunConfig") -> Demand:
        ours = self.evaluation
        return Demand(steps=1, outputs=ours.questions * ours.samples, output_tokens=ours.max_new_tokens)

    def run(self, context: StageContext) -> dict[str, float]:
        metrics, scored = evaluate(context, self.evaluation, models=self.models)
        context.journal.samples(1, scored)
        context.journal.step(1, metrics)
        return metrics


STAGE = Evaluate
