"""The reward_model stage: a scalar head on the policy's architecture, from preferences (DeepSeek-R1, 2.3.4).

pairs: helpful, by Bradley-Terry, on the final summary only. points: harmless, each response by itself, whole.
The paper: 66,000 pairs and 106,000 points, batch 256, learning rate 6e-6, one epoch, 8,192 tokens.
"""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

import torch
from pydantic import Field, model_validator

from megatron_r1.config.spelling import MOST_EPOCHS, MOST_ITEMS, MOST_STEPS
from megatron_r1.data.mixture import build_mixture, replica_range
from megatron_r1.data.preferences import Pair, Point, read_pair, read_point
from megatron_r1.errors import DataError
from megatron_r1.rl.preference import Judgement, judged, pair_loss, point_loss
from megatron_r1.section import Section
from megatron_r1.stages.base import Demand
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import Sources
from megatron_r1.stages.evaluation.held_out import say_fewer
from megatron_r1.stages.text_scorer import Part, TextScorer, scored_part
from megatron_r1.stages.train_loop import Measurement, supervised_metrics, train
from megatron_r1.stages.training import TrainingStage, steps_of_epochs
from megatron_r1.types import Prompt

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig

EVALUATION_BATCH = 256  # items that are scored at once, over all replicas


class HeldOutPreferences(Section):
    """Held-out preferences: accuracy, calibration and length bias."""

    data: Sources
    """The sources of the preferences; their held-out side."""
    examples: int = Field(default=256, ge=2, le=MOST_ITEMS)
    """How many; where the data holds fewer, each of them once."""
    every: int = Field(default=100, ge=1)
    """Steps between evaluations; the first comes before any update, the last at the end."""


class RewardModel(TrainingStage):
    """A model that scores responses, learnt from preferences."""

    kind: Literal["reward_model"]
    data: Sources
    """The sources of the preferences, by a name of your choice; their weights are their shares."""
    preferences: Literal["pairs", "points"]
    """pairs: metadata with "chosen" and "rejected" (helpful); points: "response" and "label" (harmless)."""
    part: Part
    """What of a response is scored, here and as a reward. summary: what follows the reasoning (the paper's
    helpful one). response: all of it (its harmless one)."""
    examples: int = Field(ge=1, le=MOST_ITEMS)
    """Pairs or points a step, over all replicas. R1: 256."""
    epochs: float | None = Field(default=None, gt=0, le=MOST_EPOCHS)
    """How often the data is gone through. R1: 1. Give this or `steps`."""
    steps: int = Field(default=0, ge=0, le=MOST_STEPS)
    """Steps of the stage; 0: as many as `epochs` takes."""
    evaluate: HeldOutPreferences
    """Held-out preferences; a reward that nobody measured is no reward."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps == 0):
            raise ValueError("give exactly one of `epochs` and `steps`")
        return self

    @property
    def trains_scores(self) -> bool:
        return True

    def problems(self, run: "RunConfig") -> list[str]:
        copies, found = run.layout.data, []
        if self.examples % copies:
            found.append(f"examples: {self.examples} do not divide over {copies} replicas; use a multiple")
        if self.init is None:
            found.append("init: a reward model starts from a language model; name its stage or hf:PATH")
        if self.export is not None:
            found.append(
                "export: Hugging Face's files have no place for a score head; later stages take a reward "
                "model by the name of its stage, so leave this out"
            )
        return found

    def batch_table(self, run: "RunConfig") -> list[tuple[str, str]]:
        copies = run.layout.data
        responses = 2 if self.preferences == "pairs" else 1
        length = f"{self.steps} steps" if self.epochs is None else f"{self.epochs:g} epochs"
        return [
            (f"{self.preferences} a step", f"{self.examples}, {length}, scored on the {self.part}"),
            ("responses a replica", f"{self.examples} x {responses} / {copies} replicas = "
                                    f"{self.examples * responses / copies:g}"),
            ("tokens a rank", f"at most {self.tokens_per_pack} a micro-batch"),
        ]  # fmt: skip

    def demand(self, run: "RunConfig") -> Demand | None:
        """Responses at the full length of the positions; None with `epochs`: the data decides the steps."""
        if not self.steps:
            return None
        responses = self.examples * (2 if self.preferences == "pairs" else 1)
        return Demand(
            steps=self.steps,
            updates=1,
            trained_tokens=responses * run.model.max_position_embeddings,
            pack_tokens=self.tokens_per_pack,
            checkpoints=self.steps // self.checkpoint_every + 1,
        )

    def run(self, context: StageContext) -> dict[str, float]:
        return _Training(self, context).run()


STAGE = RewardModel


class _Training:
    def __init__(self, stage: RewardModel, context: StageContext) -> None:
        assert context.scorer is not None, "the chain gives this stage a scorer"
        self.stage, self.context, self.scorer = stage, context, context.scorer
        self.replicas = self.scorer.replicas
        self.texts = TextScorer(self.scorer, context.template, context.tokenizer)
        self.data = build_mixture(stage.data, seed=context.seed)
        self.held_out = build_mixture(stage.evaluate.data, seed=context.seed, split="held_out")
        self.steps = stage.steps or steps_of_epochs(
            self.data, epochs=stage.epochs, examples=stage.examples, stage=context.name
        )

    def run(self) -> dict[str, float]:
        every = self.stage.evaluate.every
        return train(
            self.context,
            self._step,
            steps=self.steps,
            checkpoint_every=self.stage.checkpoint_every,
            measurements=[Measurement(self._evaluate, every, last=self.steps, before_training=True)],
        )

    def _step(self, step: int) -> dict[str, float]:
        stage, began = self.stage, time.perf_counter()
        mine = replica_range(
            step * stage.examples, stage.examples, index=self.replicas.index, num_replicas=self.replicas.count
        )
        items = [self._read(self.data.prompt(index)) for index in mine]
        lr = stage.optim.lr_at(step, self.steps)
        stats = self.scorer.train_step(self._sequences(items), lambda s: self._loss(s, items), lr=lr)
        return supervised_metrics(stats, lr=lr, elapsed_s=time.perf_counter() - began)

    def _loss(
        self, scores: torch.Tensor, items: Sequence[Pair | Point]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.stage.preferences == "pairs":
            return pair_loss(scores, num_pairs=self.stage.examples)
        labels = torch.tensor([float(item.good) for item in items if isinstance(item, Point)])
        return point_loss(scores, labels, num_points=self.stage.examples)

    def _read(self, prompt: Prompt) -> Pair | Point:
        return read_pair(prompt) if self.stage.preferences == "pairs" else read_point(prompt)

    def _sequences(self, items: Sequence[Pair | Point]) -> list[list[int]]:
        return [self._ids(item.prompt, response) for item in items for response in item.responses]

    def _ids(self, prompt: Prompt, response: str) -> list[int]:
        text = scored_part(response, self.stage.part)
        if text is None:
            raise DataError(
                f"preference {prompt.id}: a response has no summary after its reasoning: {response[-60:]!r}; "
                "set part: response, or remove the line"
            )
        return self.texts.ids(prompt.messages, text)

    # ---- held-out preferences

    def _evaluate(self) -> dict[str, float]:
        asked, batch = self.stage.evaluate.examples, EVALUATION_BATCH
        each = self.held_out.each_once(asked)
        say_fewer(self.context, what="preferences", key="evaluate.examples", asked=asked, there=len(each))
        batches = [each[first : first + batch] for first in range(0, len(each), batch)]
        mine = [j for one in batches for j in self._judge(one[self.replicas.index :: self.replicas.count])]
        judgements = self.replicas.gather(mine)
        found = {f"eval/preference_{name}": value for name, value in judged(judgements).items()}
        if len(judgements) > 1:  # one says nothing of the spread
            share = found["eval/preference_accuracy"]
            error = math.sqrt(share * (1 - share) / (len(judgements) - 1))
            found["eval/preference_accuracy_stderr"] = error
        return found

    def _judge(self, indices: Sequence[int]) -> list[Judgement]:
        items = [self._read(self.held_out.prompt(index)) for index in indices]
        sequences = self._sequences(items)
        scores = self.scorer.score(sequences)
        lengths = [float(len(sequence)) for sequence in sequences]
        if self.stage.preferences == "pairs":
            scores, lengths = (
                [a - b for a, b in zip(v[0::2], v[1::2], strict=True)] for v in (scores, lengths)
            )
        labels = [float(item.good) if isinstance(item, Point) else 1.0 for item in items]
        return [
            Judgement(1 / (1 + math.exp(-max(-700.0, score))), label, score, length)
            for score, label, length in zip(scores, labels, lengths, strict=True)
        ]
