"""The on_policy_distillation stage: the student samples, the teacher says how likely it finds each token.

Beyond DeepSeek-R1, which distils by fine-tuning on the teacher's samples alone; for comparison with that. One
update a step, so that what is learnt from is the student's own (rl/distillation.py).
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from megatron_r1.config.rollout import conflicts
from megatron_r1.config.spelling import MOST_ITEMS, SAMPLES_OR_GROUP_SIZE, MaxNewTokens, Temperature
from megatron_r1.data.mixture import build_mixture, replica_range
from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.errors import ConfigError
from megatron_r1.rl.distillation import reverse_kl_loss
from megatron_r1.stages.base import Demand, earlier_stages, too_long
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import EvaluateEvery, Sources
from megatron_r1.stages.grpo.batch import idle_sequence
from megatron_r1.stages.grpo.metrics import update_metrics
from megatron_r1.stages.sampling import accepted_share, draft_counts, draw_key, sample
from megatron_r1.stages.train_loop import evaluations, train
from megatron_r1.stages.training import TrainingStage
from megatron_r1.types import Completion, LossInput, LossInputs, Sampling, Score, Scored, TrainSequence

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig

LOSS_INPUTS: tuple[LossInput, ...] = ("teacher_logprobs", "rollout_logprobs")


class OnPolicyDistillation(TrainingStage):
    """Reverse KL to a teacher on the student's own samples."""

    kind: Literal["on_policy_distillation"]
    data: Sources
    """The sources of the questions, by a name of your choice; their weights are their shares."""
    teacher: str
    """The earlier stage whose model is the teacher, of any family; its vocabulary must be the student's."""
    questions: int = Field(ge=1, le=MOST_ITEMS)
    """Questions a step, over all replicas."""
    samples: int = Field(default=1, ge=1, le=MOST_ITEMS, validation_alias=SAMPLES_OR_GROUP_SIZE)
    """Samples a question."""
    temperature: Temperature = 1.0
    """Of sampling, and of both models' log-probs."""
    max_new_tokens: MaxNewTokens = 32768
    """The longest sample."""
    evaluate: EvaluateEvery | None = None
    """Held-out questions during training; null: none."""
    samples_every: int = Field(default=1, ge=1)
    """Steps between those whose samples are kept in samples.jsonl."""

    def inputs(self) -> list[str]:
        """The teacher decides the result as well."""
        return list(dict.fromkeys([*super().inputs(), self.teacher]))

    def problems(self, run: "RunConfig") -> list[str]:
        found, earlier = too_long("max_new_tokens", self.max_new_tokens, run), earlier_stages(self, run)
        models = [name for name in earlier if not run.stages[name].trains_scores]
        if self.teacher not in models:
            there = ", ".join(models) or "none"
            found.append(
                f"teacher: {self.teacher!r} is no earlier stage with a language model; there are {there}"
            )
        if self.max_new_tokens >= self.tokens_per_pack:
            found.append(
                f"tokens_per_pack: {self.tokens_per_pack} can't hold a sample of {self.max_new_tokens} tokens"
                " with its prompt; raise it or shorten max_new_tokens"
            )
        if self.questions < run.layout.data:
            found.append(
                f"questions: {self.questions} leave some of {run.layout.data} replicas without; raise it"
            )
        kind = {self.kind: f"kind={self.kind}"}
        found += conflicts(run.rollout.engine, kind, run.rollout.features())
        if self.evaluate is not None:
            key = "evaluate.evaluation.max_new_tokens"
            found += too_long(key, self.evaluate.evaluation.max_new_tokens, run)
        return found

    def batch_table(self, run: "RunConfig") -> list[tuple[str, str]]:
        total = self.questions * self.samples
        return [
            ("samples a step", f"{self.questions} questions x {self.samples} samples = {total}"),
            ("tokens a rank", f"at most {self.tokens_per_pack} a micro-batch"),
        ]

    def demand(self, run: "RunConfig") -> Demand:
        outputs = self.questions * self.samples
        return Demand(
            steps=self.steps,
            updates=1,
            trained_tokens=outputs * self.max_new_tokens,
            pack_tokens=self.tokens_per_pack,
            outputs=outputs,
            output_tokens=self.max_new_tokens,
            checkpoints=self.steps // self.checkpoint_every + 1,
            other_models=(self.teacher,),
        )

    def run(self, context: StageContext) -> dict[str, float]:
        return _Distilling(self, context).run()


STAGE = OnPolicyDistillation


class _Distilling:
    def __init__(self, stage: OnPolicyDistillation, context: StageContext) -> None:
        self.stage, self.context, self.policy = stage, context, context.policy
        self.teacher, self.template, self.tokenizer = context.policies(stage.teacher)
        _require_same_vocabulary(stage.teacher, self.tokenizer, context)
        self.questions = build_mixture(stage.data, seed=context.seed)

    def run(self) -> dict[str, float]:
        stage = self.stage
        return train(
            self.context,
            self._step,
            steps=stage.steps,
            checkpoint_every=stage.checkpoint_every,
            measurements=evaluations(self.context, stage.evaluate, last=stage.steps),
        )

    def _step(self, step: int) -> dict[str, float]:
        stage, replicas, began = self.stage, self.policy.replicas, time.perf_counter()
        completions = self._sample(step)
        sampled = time.perf_counter()
        teacher = self._teacher_logprobs(completions)
        if (step + 1) % stage.samples_every == 0:
            self.context.journal.samples(step + 1, list(map(_scored, completions, teacher)))
        scored = time.perf_counter()
        total = replicas.sum(
            {
                "tokens": float(sum(len(c.token_ids) for c in completions)),
                "cut": float(sum(not c.finished for c in completions)),
                **draft_counts(completions),
            }
        )
        lr = stage.optim.lr_at(step, stage.steps)
        stats = self.policy.train_step(
            [_sequence(c, t, num_tokens=total["tokens"]) for c, t in zip(completions, teacher, strict=True)]
            or [idle_sequence(self.context.tokenizer.eos_id, loss_inputs=LOSS_INPUTS)],
            reverse_kl_loss,
            lr=lr,
            temperature=stage.temperature,
            entropy=True,
        )
        step_s, outputs = time.perf_counter() - began, stage.questions * stage.samples
        return {
            **update_metrics([stats]),
            "train/lr": lr,
            "rollout/length": total["tokens"] / outputs,
            "rollout/cut": total["cut"] / outputs,
            "rollout/tokens_per_s": total["tokens"] / (sampled - began),
            **accepted_share(total),
            "time/rollout": (sampled - began) / step_s,
            "time/logprobs": (scored - sampled) / step_s,
            "time/train": (began + step_s - scored) / step_s,
            "time/step_s": step_s,
        }

    def _sample(self, step: int) -> list[Completion]:
        stage, replicas = self.stage, self.policy.replicas
        first, count = step * stage.questions, stage.questions
        mine = replica_range(first, count, index=replicas.index, num_replicas=replicas.count)
        rows = [(index, k) for index in mine for k in range(stage.samples)]
        return sample(
            self.context,
            [self.questions.prompt(index) for index, _ in rows],
            Sampling(stage.max_new_tokens, stage.temperature, seed=self.context.seed),
            keys=[draw_key(self.context.name, index, k) for index, k in rows],
        )

    def _teacher_logprobs(self, completions: Sequence[Completion]) -> list[torch.Tensor]:
        """Of each sample's tokens, after the question as the teacher's own template asks it; collective."""
        asked = [self.template.prompt_ids(c.prompt.messages, self.tokenizer) for c in completions]
        sequences = [
            TrainSequence(ids := torch.tensor([*given, *c.token_ids]), torch.ones(len(ids)))
            for given, c in zip(asked, completions, strict=True)
        ]
        found = self.teacher.logprobs(sequences, temperature=self.stage.temperature)
        return [values[len(given) :] for values, given in zip(found, asked, strict=True)]


def _require_same_vocabulary(teacher: str, theirs: Tokenizer, context: StageContext) -> None:
    """Token by token: a teacher's opinion of another piece under the same number would be nonsense."""
    ours = context.tokenizer
    if theirs.vocab_size == ours.vocab_size and theirs.eos_id == ours.eos_id:
        ends = {*theirs.eos_ids, *ours.eos_ids}  # decoded to nothing by the side that lists them
        pieces = (i for i in range(ours.vocab_size) if i not in ends)
        different = [i for i in pieces if theirs.decode([i]) != ours.decode([i])]
        if not different:
            return
        what = f"token {different[0]} is {theirs.decode(different[:1])!r} and {ours.decode(different[:1])!r}"
    else:
        what = f"{theirs.vocab_size} and {ours.vocab_size} pieces, EOS {theirs.eos_id} and {ours.eos_id}"
    raise ConfigError(
        f"stage {context.name}: teacher {teacher} and this model have different vocabularies ({what}); "
        "distil by sft on the teacher's samples instead"
    )


def _sequence(completion: Completion, teacher: torch.Tensor, *, num_tokens: float) -> TrainSequence:
    """Weight 1 / num_tokens on each token of the sample: the loss is a mean over all of the step's."""
    given, tokens = torch.zeros(len(completion.prompt_ids)), completion.token_ids
    own = torch.tensor(completion.rollout_logprobs)
    return TrainSequence(
        token_ids=torch.tensor([*completion.prompt_ids, *tokens]),
        weights=torch.cat([given, torch.full((len(tokens),), 1 / num_tokens)]),
        loss_inputs=LossInputs(
            teacher_logprobs=torch.cat([given, teacher]), rollout_logprobs=torch.cat([given, own])
        ),
    )


def _scored(completion: Completion, teacher: torch.Tensor) -> Scored:
    """The sample with the teacher's mean log-prob of its tokens."""
    mean = float(teacher.mean())
    return Scored(completion, mean, {"teacher": Score(mean)})
