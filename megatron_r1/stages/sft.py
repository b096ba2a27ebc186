"""The sft stage: cross entropy on the answers of chats.

Cold start, the second fine-tuning and distillation are all this, by their `init` and `data` (DeepSeek-R1,
sections 2.3.1, 2.3.3 and 2.4; 2-3 epochs, cosine to one tenth, packed with sample masks).
"""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from megatron_r1.config.spelling import MOST_EPOCHS, MOST_ITEMS, MOST_STEPS
from megatron_r1.data.chats import LearntAnswers, chat_sequences
from megatron_r1.data.mixture import Mixture, build_mixture, replica_range
from megatron_r1.errors import DataError
from megatron_r1.section import Section
from megatron_r1.stages.base import Demand, too_long
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import EvaluateEvery, Sources
from megatron_r1.stages.evaluation.held_out import each_once
from megatron_r1.stages.grpo.batch import idle_sequence
from megatron_r1.stages.train_loop import Measurement, evaluations, supervised_update, train
from megatron_r1.stages.training import TrainingStage, steps_of_epochs
from megatron_r1.types import TrainSequence

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig


class HeldOutChats(Section):
    """Chats whose answers are never learnt, only predicted."""

    data: Sources
    """The sources of the chats; their held-out side."""
    chats: int = Field(ge=1)
    """How many of them, over all replicas; where the data holds fewer, each of them once."""
    every: int = Field(default=100, ge=1)
    """Steps between evaluations; the first comes before any update, the last at the end."""


class Sft(TrainingStage):
    """Supervised fine-tuning on the answers of chats."""

    kind: Literal["sft"]
    data: Sources
    """The sources of the chats, by a name of your choice; their weights are their shares."""
    examples: int = Field(ge=1, le=MOST_ITEMS)
    """Chats a step, over all replicas. R1: 128; its students: 64."""
    epochs: float | None = Field(default=None, gt=0, le=MOST_EPOCHS)
    """How often the data is gone through. R1: 2 to 3. Give this or `steps`."""
    steps: int = Field(default=0, ge=0, le=MOST_STEPS)
    """Steps of the stage; 0: as many as `epochs` takes."""
    answers: LearntAnswers = "last"
    """Which answers of a chat of several turns are learnt."""
    max_chat_tokens: int | None = Field(default=None, ge=2)
    """Leave out chats of more tokens, and count them (train/too_long). R1: 32768; null: one that no pack or
    position holds is an error."""
    mtp: bool = False
    """Add the loss of multi-token prediction, where the model has the layers."""
    held_out: HeldOutChats | None = None
    """The loss on held-out chats during training (eval/loss); null: none."""
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
        limit = min(self.tokens_per_pack, run.model.max_position_embeddings)
        if self.max_chat_tokens is not None and self.max_chat_tokens > limit:
            found.append(
                f"max_chat_tokens: {self.max_chat_tokens} is above {limit}, the lower of tokens_per_pack and "
                "model.max_position_embeddings; lower it or raise them"
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
        self.stage, self.context, self.replicas = stage, context, context.policy.replicas
        self.chats = build_mixture(stage.data, seed=context.seed)
        self.steps = stage.steps or steps_of_epochs(
            self.chats, epochs=stage.epochs, examples=stage.examples, stage=context.name
        )
        self.num_too_long = int(context.state.get("too_long", 0))

    def run(self) -> dict[str, float]:
        return train(
            self.context,
            self._step,
            steps=self.steps,
            checkpoint_every=self.stage.checkpoint_every,
            measurements=[
                *evaluations(self.context, self.stage.evaluate, last=self.steps),
                *self._held_out(),
            ],
            state=lambda: {"too_long": self.num_too_long},
        )

    def _held_out(self) -> list[Measurement]:
        options = self.stage.held_out
        if options is None:
            return []
        measure = partial(self._held_out_loss, options)
        return [Measurement(measure, options.every, last=self.steps, before_training=True)]

    def _step(self, step: int) -> dict[str, float]:
        stage = self.stage
        first, count = step * stage.examples, stage.examples
        mine = replica_range(first, count, index=self.replicas.index, num_replicas=self.replicas.count)
        chats = self._chats(self.chats, mine)
        short = [chat for chat in chats if not self._is_too_long(chat)]
        left = int(self.replicas.sum({"chats": float(len(short))})["chats"])
        if not left:
            raise DataError(
                f"stage {self.context.name}: all {count} chats of step {step + 1} have more than "
                f"max_chat_tokens = {stage.max_chat_tokens} tokens; raise it"
            )
        self.num_too_long += count - left
        sequences = [sequence for chat in short for sequence in chat]
        metrics = supervised_update(
            self.context,
            sequences or [idle_sequence(self.context.tokenizer.eos_id, loss_inputs=())],
            lr=stage.optim.lr_at(step, self.steps),
            mtp=stage.mtp,
        )
        return metrics | ({"train/too_long": self.num_too_long} if stage.max_chat_tokens else {})

    def _chats(self, chats: Mixture, indices: Iterable[int]) -> list[list[TrainSequence]]:
        """These chats, each as its sequences."""
        context = self.context
        return [
            chat_sequences(
                chats.document(index), context.template, context.tokenizer, answers=self.stage.answers
            )
            for index in indices
        ]

    def _is_too_long(self, chat: list[TrainSequence]) -> bool:
        limit = self.stage.max_chat_tokens
        return limit is not None and any(len(sequence.token_ids) > limit for sequence in chat)

    def _held_out_loss(self, options: HeldOutChats) -> dict[str, float]:
        """The mean over the tokens of the answers; chats that training would leave out are left out here."""
        data = build_mixture(options.data, seed=self.context.seed, split="held_out")
        mine = each_once(self.context, data, options.chats, what="chats", key="held_out.chats")
        chats = self._chats(data, mine)
        sequences = [one for chat in chats if not self._is_too_long(chat) for one in chat]
        logprobs = self.context.policy.logprobs(sequences)
        loss = -sum(float((v * s.weights).sum()) for v, s in zip(logprobs, sequences, strict=True))
        tokens = sum(float(s.weights.sum()) for s in sequences)
        total = self.replicas.sum({"loss": loss, "tokens": tokens})
        if not total["tokens"]:
            raise DataError(f"stage {self.context.name}: held_out: no chat within max_chat_tokens; raise it")
        return {"eval/loss": total["loss"] / total["tokens"]}
