"""The sft stage: cross entropy on the answers of chats.

Cold start, the second fine-tuning and distillation are all this, by their `init` and `data` (DeepSeek-R1,
sections 2.3.1, 2.3.3 and 2.4; 2-3 epochs, cosine to one tenth, packed with sample masks).
"""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from megatron_r1.data.chats import LearntAnswers, chat_sequences
from megatron_r1.data.mixture import build_mixture, replica_range
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.demand import Demand
from megatron_r1.stages.evaluation import EvaluateEvery, Sources, evaluate
from megatron_r1.stages.section import too_long
from megatron_r1.stages.supervised import supervised_update
from megatron_r1.stages.training import TrainingStage, steps_of_epochs
from megatron_r1.types import TrainSequence

if TYPE_CHECKING:
    from megatron_r1.run_config import RunConfig


class Sft(TrainingStage):
    """Supervised fine-tuning on the answers of chats."""

    kind: Literal["sft"]
    data: Sources
    """The sources of the chats, by a name of your choice; their weights are their shares."""
    examples: int = Field(ge=1)
    """Chats a step, over all replicas. R1: 128; its students: 64."""
    epochs: float | None = Field(default=None, gt=0)
    """How often the data is gone through. R1: 2 to 3. Give this or `steps`."""
    steps: int = Field(default=0, ge=0)
    """Steps of the stage; 0: as many as `epochs` takes."""
    answers: LearntAnswers = "last"
    """Which answers of a chat of several turns are learnt."""
    mtp: bool = False
    """Add the loss of multi-token prediction, where the model has the layers."""
    evaluate: EvaluateEvery | None = None
    """Held-out questions during training; null: none."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps == 0):
            raise ValueError("give exactly one of `epochs` and `steps`")
        return self

    def problems(self, run: "RunConfig") -> list[str]:
        found = []
        if self.examples < run.layout.data:
            found.append(
                f"examples: {self.examples} chats leave some of {run.layout.data} replicas without; raise it"
            )
        if self.mtp and not run.model.shape().num_mtp_layers:
            found.append("mtp: this model has no such layers; set it to false")
        if self.evaluate is not None:
            key = "evaluate.evaluation.max_new_tokens"
            found += too_long(key, self.evaluate.evaluation.max_new_tokens, run)
        return found

    def batch_table(self, run: "RunConfig") -> list[tuple[str, str]]:
        copies = run.layout.data
        length = f"{self.steps} steps" if self.epochs is None else f"{self.epochs:g} epochs"
        return [
            ("chats a step", f"{self.examples}, {length}, loss on the {self.answers} answer"),
            ("chats a replica", f"{self.examples} / {copies} replicas = {self.examples / copies:g}"),
            ("tokens a rank", f"at most {self.tokens_per_pack} a micro-batch"),
        ]

    def demand(self, run: "RunConfig") -> Demand | None:
        """Chats at the full length of the positions; None with `epochs`: the data decides the steps."""
        if not self.steps:
            return None
        return Demand(
            steps=self.steps,
            updates=1,
            trained_tokens=self.examples * run.model.max_position_embeddings,
            pack_tokens=self.tokens_per_pack,
            mtp=self.mtp,
            checkpoints=self.steps // self.checkpoint_every + 1,
        )

    def run(self, context: StageContext) -> dict[str, float]:
        return _FineTuning(self, context).run()


STAGE = Sft


class _FineTuning:
    def __init__(self, stage: Sft, context: StageContext) -> None:
        self.stage, self.context = stage, context
        self.chats = build_mixture(stage.data, seed=context.seed)
        self.steps = stage.steps or steps_of_epochs(
            self.chats, epochs=stage.epochs, examples=stage.examples, stage=context.name
        )

    def run(self) -> dict[str, float]:
        stage, journal = self.stage, self.context.journal
        journal.expect(self.steps)
        metrics: dict[str, float] = {}
        for step in range(self.context.start_step, self.steps):
            metrics = self._step(step)
            if self._is_evaluated(step + 1):
                assert stage.evaluate is not None
                metrics |= evaluate(self.context, stage.evaluate.evaluation)[0]
            journal.step(step + 1, metrics)
            if journal.stop_here() or (step + 1) % stage.checkpoint_every == 0:
                journal.checkpoint(step + 1, {})
        return metrics

    def _step(self, step: int) -> dict[str, float]:
        stage, replicas = self.stage, self.context.policy.replicas
        mine = replica_range(
            step * stage.examples, stage.examples, index=replicas.index, num_replicas=replicas.count
        )
        sequences = [sequence for index in mine for sequence in self._sequences(index)]
        lr = stage.optim.lr_at(step, self.steps)
        return supervised_update(self.context, sequences, lr=lr, mtp=stage.mtp)

    def _sequences(self, index: int) -> list[TrainSequence]:
        context = self.context
        return chat_sequences(
            self.chats.document(index), context.template, context.tokenizer, answers=self.stage.answers
        )

    def _is_evaluated(self, done: int) -> bool:
        evaluation = self.stage.evaluate
        return evaluation is not None and (done % evaluation.every == 0 or done == self.steps)
