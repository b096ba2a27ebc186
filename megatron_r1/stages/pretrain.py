"""The pretrain stage: next-token prediction on documents, with the MTP loss where the model has it."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from megatron_r1.config.spelling import MOST_ITEMS, MOST_STEPS
from megatron_r1.data.mixture import build_mixture, replica_range
from megatron_r1.data.packing import train_sequence, windows
from megatron_r1.errors import ConfigError, GateError
from megatron_r1.section import NO_EFFECT, Section
from megatron_r1.stages.base import Demand, too_long
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import Evaluation, Sources, evaluate
from megatron_r1.stages.train_loop import Measurement, supervised_update, train
from megatron_r1.stages.training import TrainingStage
from megatron_r1.types import TrainSequence

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig


class Until(Section):
    """Train on until a held-out metric is reached."""

    metric: str = "eval/accuracy"
    """Which metric of the evaluation."""
    at_least: float
    """The value to reach."""
    every: int = Field(default=100, ge=1)
    """Evaluate every so many steps once `steps` are done."""
    max_steps: int = Field(ge=1, le=MOST_STEPS)
    """Give up after so many steps in all, with an error: what follows would be built on sand."""
    evaluation: Evaluation
    """The held-out questions."""


class Pretrain(TrainingStage):
    """Train on documents."""

    kind: Literal["pretrain"]
    data: Sources
    """The sources of the documents, by a name of your choice; their weights are their shares."""
    documents: int = Field(ge=1, le=MOST_ITEMS)
    """Documents a step, over all replicas."""
    sample_mask: bool = False
    """Keep documents from seeing each other. False: documents end to end in windows, as V3 pretrains."""
    window: int = Field(default=4096, ge=2)
    """Tokens of a window, without sample_mask."""
    prompt_weight: float = Field(default=1.0, ge=0, le=1)
    """Weight of the loss on what precedes the response."""
    checkpoint_every: Annotated[int, NO_EFFECT] = Field(default=500, ge=1)
    """Steps between checkpoints."""
    until: Until | None = None
    """Go on beyond `steps` until a held-out metric is reached."""

    @model_validator(mode="after")
    def _until_leaves_room(self) -> Self:
        if self.until is not None and self.until.max_steps < self.steps:
            raise ValueError(f"until.max_steps={self.until.max_steps} is below steps={self.steps}; raise it")
        return self

    def problems(self, run: "RunConfig") -> list[str]:
        found = []
        if self.until is not None:
            key = "until.evaluation.max_new_tokens"
            found += too_long(key, self.until.evaluation.max_new_tokens, run)
        if self.sample_mask:
            return found
        found += too_long("window", self.window - 1, run)
        if self.window > self.tokens_per_pack:
            found.append(
                f"window: {self.window} tokens don't fit tokens_per_pack = {self.tokens_per_pack}; "
                "shorten the window or raise tokens_per_pack"
            )
        return found

    def batch_table(self, run: "RunConfig") -> list[tuple[str, str]]:
        copies = run.layout.data
        form = "one by one" if self.sample_mask else f"end to end in windows of {self.window} tokens"
        return [
            ("documents a step", f"{self.documents}, {form}"),
            ("documents a replica", f"{self.documents} / {copies} replicas = {self.documents / copies:g}"),
            ("tokens a rank", f"at most {self.tokens_per_pack} a micro-batch"),
        ]

    def demand(self, run: "RunConfig") -> Demand:
        longest = run.model.max_position_embeddings if self.sample_mask else self.window
        return Demand(
            steps=self.steps if self.until is None else self.until.max_steps,
            updates=1,
            trained_tokens=self.documents * longest,
            pack_tokens=self.tokens_per_pack,
            mtp=run.model.shape().num_mtp_layers > 0,
            checkpoints=self.steps // self.checkpoint_every + 1,
        )

    def run(self, context: StageContext) -> dict[str, float]:
        return _Pretraining(self, context).run()


STAGE = Pretrain


class _Pretraining:
    def __init__(self, stage: Pretrain, context: StageContext) -> None:
        self.stage, self.context = stage, context
        self.documents = build_mixture(stage.data, seed=context.seed)

    def run(self) -> dict[str, float]:
        return train(
            self.context,
            self._step,
            steps=self.stage.steps,
            checkpoint_every=self.stage.checkpoint_every,
            measurements=self._measurements(),
            goes_on=self._goes_on,
        )

    def _measurements(self) -> list[Measurement]:
        until = self.stage.until
        if until is None:
            return []
        return [Measurement(self._evaluate, until.every, last=until.max_steps, first=self.stage.steps)]

    def _step(self, step: int) -> dict[str, float]:
        return supervised_update(
            self.context, self._batch(step), lr=self.stage.optim.lr_at(step, self.stage.steps), mtp=True
        )

    def _batch(self, step: int) -> list[TrainSequence]:
        """This replica's sequences of a step."""
        stage, replicas = self.stage, self.context.policy.replicas
        first = step * stage.documents
        mine = replica_range(first, stage.documents, index=replicas.index, num_replicas=replicas.count)
        sequences = [self._sequence(index) for index in mine]
        return sequences if stage.sample_mask else windows(sequences, seq_length=stage.window)

    def _sequence(self, index: int) -> TrainSequence:
        document = self.documents.document(index)
        given, learnt = self.context.template.document_ids(document, self.context.tokenizer)
        return train_sequence(given, learnt, prompt_weight=self.stage.prompt_weight)

    def _evaluate(self) -> dict[str, float]:
        assert self.stage.until is not None
        found, metric = evaluate(self.context, self.stage.until.evaluation)[0], self.stage.until.metric
        if metric not in found:
            raise ConfigError(
                f"stage {self.context.name}: until.metric: the evaluation has no {metric}; choose one of "
                f"{', '.join(sorted(found))}"
            )
        return found

    def _goes_on(self, step: int, metrics: dict[str, float]) -> bool:
        """Whether the held-out metric is not reached yet; GateError where it won't be."""
        until = self.stage.until
        if until is None or metrics.get(until.metric, -1.0) >= until.at_least:
            return False
        if step >= until.max_steps:
            raise GateError(
                f"stage {self.context.name}: {until.metric} is {metrics.get(until.metric)} after {step} "
                f"steps, below {until.at_least}; RL on this base would end low. Try another seed, more steps "
                "(until.max_steps) or a larger model"
            )
        return True
