"""The grpo stage: R1-Zero, reasoning RL and RL for all scenarios, by their rewards.

A step, as DeepSeek-R1 has it: sample a group of outputs a question, score them, take each reward relative
to its group, update on shuffled mini-batches against the policy that sampled and the reference.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from megatron_r1 import registry
from megatron_r1.config.rollout import StageRollout
from megatron_r1.config.spelling import MOST_ITEMS, MOST_STEPS, SAMPLES_OR_GROUP_SIZE, Temperature
from megatron_r1.rl.advantage import Normalise
from megatron_r1.rl.aggregation import Aggregation, token_weights
from megatron_r1.rl.filters import Group, GroupFilter, collect_groups
from megatron_r1.rl.losses import GrpoLoss
from megatron_r1.rl.schedules import Lengths, LengthSchedule, reference_is_due
from megatron_r1.runtime.step_profile import phase
from megatron_r1.stages.base import Demand, too_long
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import EvaluateEvery, Sources, evaluate
from megatron_r1.stages.evaluation.ungraded import IdleRewards, UngradedWatch, first_reason
from megatron_r1.stages.grpo.async_rollout import rollout_problems
from megatron_r1.stages.grpo.balance import deal
from megatron_r1.stages.grpo.batch import advantages_of, graded_sequences, idle_sequence
from megatron_r1.stages.grpo.collapse_checks import Guards, GuardWatch
from megatron_r1.stages.grpo.metrics import Rollout, rollout_metrics, update_metrics
from megatron_r1.stages.grpo.phases import (
    FinalPhase,
    Rewards,
    chosen,
    phase_problems,
    reward_models,
)
from megatron_r1.stages.grpo.reward_hacking import Watch, look
from megatron_r1.stages.grpo.rollout import Asker
from megatron_r1.stages.grpo.sanity_checks import Gates
from megatron_r1.stages.train_loop import Measurement, evaluations, train
from megatron_r1.stages.training import TrainingStage
from megatron_r1.types import LossInput, StepStats, TrainSequence

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig

Loss = registry.union(registry.losses(), "kind", default="grpo")


class Grpo(TrainingStage):
    """Group-relative policy optimisation (DeepSeekMath, 2402.03300; DeepSeek-R1, 2501.12948)."""

    kind: Literal["grpo"]
    data: Sources
    """The sources of the questions, by a name of your choice; their weights are their shares."""
    rewards: Rewards  # type: ignore[valid-type]
    """The rewards with their weights; the reward of an output is the weighted sum."""
    final: FinalPhase | None = None
    """What the last updates add: general prompts and preference rewards, as R1's last RL; null: nothing."""
    steps: int = Field(ge=1, le=MOST_STEPS)
    """Rollouts; each makes `updates` updates."""
    questions: int = Field(ge=1, le=MOST_ITEMS)
    """Questions a step, over all replicas. R1: 512 (8,192 outputs)."""
    group_size: int = Field(ge=2, le=MOST_ITEMS, validation_alias=SAMPLES_OR_GROUP_SIZE)
    """Outputs a question, written `samples`; `group_size` is read as well. R1: 16."""
    updates: int = Field(default=1, ge=1)
    """Mini-batches that a step's outputs are split into, one update each. R1: 16."""
    inner_epochs: int = Field(default=1, ge=1)
    """How often a step's outputs are gone through. R1: 1."""
    balance: bool = True
    """Outputs move between replicas before they are trained on, so that each update has as many of them and
    as many tokens on every replica; false: each replica trains on what it sampled. The same updates."""
    rollout: StageRollout = StageRollout()
    """What is otherwise than in the run's `rollout`."""
    temperature: Temperature = 1.0
    """Of the rollout, and of the log-probs in training. R1-Zero: 1; the last RL: 0.7."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Of the rollout; R1: 1. Below 1, training and the reference leave out the same tokens (DeepSeek-V3.2,
    2512.02556, "keep sampling mask"), and the entropy is that of what is left."""
    routing_replay: bool = False
    """Train with the experts that the rollout chose for each token (R3, 2510.11370; DeepSeek-V3.2, "keep
    routing"). The reference keeps routes of its own."""
    max_new_tokens: Lengths = LengthSchedule()
    """The longest output: a number, or one by update. R1-Zero: {0: 32768, 8200: 65536}."""
    loss: Loss = GrpoLoss()  # type: ignore[valid-type]
    """The policy loss: GRPO's by its options, or that of another `kind`, from a plug-in."""
    aggregation: Aggregation = "sequence_mean"
    """From tokens to the loss of an update. sequence_mean: DeepSeekMath; token_mean: DAPO; fixed_length:
    Dr. GRPO; sequence_sum: LUSPO."""
    normalise: Normalise = "std"
    """std: advantages are divided by the group's standard deviation; batch: by that of all of the step's
    rewards (2508.08221); none: as Dr. GRPO."""
    combine: Literal["sum_then_normalise", "normalise_then_sum"] = "sum_then_normalise"
    """Of several rewards. sum_then_normalise: the advantage is that of the weighted sum. normalise_then_sum:
    each reward has an advantage in its group, and their weighted sum is divided by the standard deviation of
    the step's: a reward of small differences isn't lost beside a large one (GDPO, 2601.05242)."""
    groups: GroupFilter = GroupFilter()
    """What becomes of groups whose rewards are all equal."""
    reference_every: int | None = Field(default=None, ge=1)
    """Updates after which the reference becomes the policy. R1: 400; null: never."""
    evaluate: EvaluateEvery | None = None
    """Held-out questions during training; null: none."""
    watch: Watch | None = None
    """Reward models, a judge and lengths on held-out general prompts, against reward hacking; null: none."""
    gates: Gates = Gates()
    """What must hold, or the run stops."""
    guards: Guards = Guards()
    """Signs of a collapse that are watched for."""
    samples_every: int = Field(default=1, ge=1)
    """Steps between those whose samples are kept in samples.jsonl."""

    @model_validator(mode="after")
    def _rewards_have_one_scale(self) -> Self:
        if self.combine == "normalise_then_sum" and self.normalise != "std":
            text = f"normalise={self.normalise} has no effect with combine={self.combine}; remove it"
            raise ValueError(text)
        return self

    @model_validator(mode="after")
    def _gate_can_be_measured(self) -> Self:
        if self.gates.metric is not None and self.evaluate is None:
            raise ValueError(f"gates.metric={self.gates.metric} needs `evaluate`; add it or remove the gate")
        return self

    def problems(self, run: "RunConfig") -> list[str]:
        copies, found = run.layout.data, []
        if self.questions % copies:
            found.append(
                f"questions: {self.questions} questions do not divide over {copies} replicas; use a multiple"
            )
        longest = max(self.max_new_tokens.steps.values())
        if longest >= self.tokens_per_pack:
            found.append(
                f"tokens_per_pack: {self.tokens_per_pack} can't hold one output of {longest} tokens with its "
                "prompt; raise it or shorten max_new_tokens"
            )
        found += too_long("max_new_tokens", longest, run)
        if self.evaluate is not None:
            key = "evaluate.evaluation.max_new_tokens"
            found += too_long(key, self.evaluate.evaluation.max_new_tokens, run)
        if self.routing_replay and not run.model.shape().num_experts:
            found.append("routing_replay: this model has no experts, so no routes; set it to false")
        found += rollout_problems(self, run)
        found += phase_problems(self, run)
        if not chosen(self.rewards):
            found.append("rewards: none is set; give at least one, such as accuracy: {weight: 1}")
        elif not any(config.weight for config in chosen(self.rewards).values()):
            found.append("rewards: every weight is 0, so nothing is rewarded; give one a weight, such as 1")
        outputs = self.questions * self.group_size
        if self.updates > outputs:
            found.append(f"updates: {self.updates}, and a step has {outputs} outputs; lower it")
        return found

    @property
    def max_off_policy_steps(self) -> int:
        """Of its own section; 0 where neither it nor a run has said anything."""
        return self.rollout.max_off_policy_steps or 0

    def warnings(self, run: "RunConfig") -> list[str]:
        """What the rewards of all phases lack here."""
        final = {} if self.final is None else chosen(self.final.rewards)
        configs = [*chosen(self.rewards).values(), *final.values()]
        return [text for config in configs if (text := config.missing()) is not None]

    def batch_table(self, run: "RunConfig") -> list[tuple[str, str]]:
        copies = run.layout.data
        outputs = self.questions * self.group_size
        updates = self.updates * self.inner_epochs
        return [
            ("outputs a step", f"{self.questions} questions x {self.group_size} outputs = {outputs}"),
            ("updates a step", f"{self.updates} mini-batches x {self.inner_epochs} epochs = {updates}"),
            ("outputs an update", f"{outputs} / {self.updates} = {outputs // self.updates}"),
            ("outputs a replica", f"{outputs} / {copies} replicas = {outputs // copies} a step"),
            ("tokens a rank", f"at most {self.tokens_per_pack} a micro-batch"),
            ("micro-batches", self._micro_batches(outputs // copies)),
        ]

    def demand(self, run: "RunConfig") -> Demand:
        outputs, longest = self.questions * self.group_size, max(self.max_new_tokens.steps.values())
        return Demand(
            steps=self.steps,
            updates=self.updates * self.inner_epochs,
            trained_tokens=outputs * longest * self.inner_epochs,
            scored_passes=1 + self.loss.needs_reference,
            pack_tokens=self.tokens_per_pack,
            reference=self.loss.needs_reference,
            outputs=outputs,
            output_tokens=longest,
            max_off_policy_steps=self.max_off_policy_steps,
            checkpoints=self.steps // self.checkpoint_every + 1,
            other_models=tuple(self._other_models()),
        )

    def _micro_batches(self, outputs: int) -> str:
        """Of an update, were all of a replica's outputs the longest; prompts come on top."""
        longest, mine = max(self.max_new_tokens.steps.values()), -(-outputs // self.updates)
        count = -(-mine * longest // self.tokens_per_pack)
        return f"{mine} outputs x {longest} tokens / {self.tokens_per_pack} = {count} an update, + prompts"

    def run(self, context: StageContext) -> dict[str, float]:
        return _Training(self, context).run()

    def inputs(self) -> list[str]:
        """Reward models decide the result as well."""
        return list(dict.fromkeys([*super().inputs(), *self._other_models()]))

    def _other_models(self) -> list[str]:
        models = [config.model for config in reward_models(self).values()]
        watched = [] if self.watch is None else self.watch.stages()
        return list(dict.fromkeys([*models, *watched]))


STAGE = Grpo


class _Training:
    def __init__(self, stage: Grpo, context: StageContext) -> None:
        self.stage, self.context, self.policy = stage, context, context.policy
        self.asker = Asker(stage, context)
        self.updates_done = int(context.state.get("updates_done", 0))
        self.guards = GuardWatch(stage.guards, context.state.get("guards", {}))
        before = context.state.get("ungraded", {})
        self.ungraded = UngradedWatch(context.name, stage.guards.patience, **before)
        self.idle = IdleRewards(context.name, stage.guards.patience)

    def run(self) -> dict[str, float]:
        stage, context = self.stage, self.context
        if context.start_step == 0:
            if stage.loss.needs_reference:
                self.policy.refresh_reference()
            self._check_base()
        metrics = train(
            context,
            self._step,
            steps=stage.steps,
            checkpoint_every=stage.checkpoint_every,
            measurements=[*self._watched(), *evaluations(context, stage.evaluate, last=stage.steps)],
            state=self._state,
        )
        self.ungraded.finish(stage.steps)
        return metrics

    def _watched(self) -> list[Measurement]:
        watch = self.stage.watch
        if watch is None:
            return []
        return [Measurement(partial(look, self.context, watch), watch.every, last=self.stage.steps)]

    def _state(self) -> dict[str, Any]:
        return {
            "updates_done": self.updates_done,
            "guards": self.guards.counts,
            "ungraded": self.ungraded.state(),
            **self.asker.state(),
        }

    def _check_base(self) -> None:
        """What the policy is before any update."""
        stage, context = self.stage, self.context
        metrics = {} if stage.watch is None else look(context, stage.watch)
        if stage.evaluate is not None:
            found, scored = evaluate(context, stage.evaluate.evaluation)
            metrics |= found
            context.journal.samples(0, scored)
        if metrics:
            context.journal.step(0, metrics)
            stage.gates.require_base(context.name, metrics)

    def _step(self, step: int) -> dict[str, float]:
        self.asker.enter(step)
        began = time.perf_counter()
        # a step's outputs have one limit, however many updates are made on them
        max_length = self.stage.max_new_tokens.at(self.updates_done)
        batch = self._rollout(step)
        if (step + 1) % self.stage.samples_every == 0:
            self.context.journal.samples(step + 1, batch.scored)
        marked = time.perf_counter()
        advantages = advantages_of(
            batch.scored,
            self.policy.replicas,
            group_size=self.stage.group_size,
            normalise=self.stage.normalise,
            apart=self._weights_apart(),
        )
        sequences = graded_sequences(batch.scored, advantages, version=self.policy.version)
        dealt = deal(
            sequences,
            self.policy.replicas,
            num_updates=self.stage.updates,
            inner_epochs=self.stage.inner_epochs,
            seed=self.context.seed,
            step=step,
            balanced=self.stage.balance,
        )
        add_logprobs = self._checked if step == 0 else self._with_logprobs
        sequences = add_logprobs(dealt.sequences)
        logprobs_s = time.perf_counter() - marked
        stats = self._update(sequences, dealt.updates, step, max_length=max_length)
        if step == 0 and stats:
            self.stage.gates.require_on_policy(self.context.name, stats[0])
        step_s = time.perf_counter() - began
        train_s = step_s - batch.rollout_s - batch.reward_s - logprobs_s
        metrics = {
            **rollout_metrics(batch, self.policy.replicas, group_size=self.stage.group_size),
            **update_metrics(stats),
            "train/lr": self._lr(step),
            "time/rollout": batch.rollout_s / step_s,
            "time/reward": batch.reward_s / step_s,
            "time/logprobs": logprobs_s / step_s,
            "time/train": train_s / step_s,
            "time/step_s": step_s,
        }
        self._require_graded(step, batch)
        judged = [name for name in batch.rewards if f"train/reward_{name}" in metrics]
        self.idle.look(
            judged=judged,
            idle=[name for name in batch.rewards if name not in judged],
            last=step + 1 == self.stage.steps,
        )
        self.guards.look(self.context.name, step + 1, metrics, batch.scored)
        return metrics

    def _require_graded(self, step: int, batch: Rollout) -> None:
        """Collective."""
        replicas = self.policy.replicas
        total = replicas.sum({"all": float(batch.num_sampled), "ungraded": float(batch.num_ungraded)})
        reasons = replicas.gather([batch.reason])
        self.ungraded.look(
            step + 1,
            num_samples=int(total["all"]),
            num_ungraded=int(total["ungraded"]),
            reason=next(filter(None, reasons), ""),
        )

    def _weights_apart(self) -> Mapping[str, float] | None:
        """The rewards' weights, where each is normalised for itself."""
        return self.asker.phase.weights if self.stage.combine == "normalise_then_sum" else None

    # ---- sampling and scoring

    def _rollout(self, step: int) -> Rollout:
        times = {"rollout": 0.0, "reward": 0.0, "tokens": 0.0}
        seen = {"sampled": 0, "ungraded": 0}
        reasons: list[str] = []
        refits = self.policy.refits
        replicas = self.policy.replicas

        def sample_groups(round_index: int, count: int) -> list[Group]:
            marked = time.perf_counter()
            completions, drawn = self.asker.rollout(step, count, updates_done=self.updates_done)
            times["rollout"] += time.perf_counter() - marked
            times["tokens"] += drawn
            marked = time.perf_counter()
            with phase("rewards"):
                scored = self.asker.score(completions)
            times["reward"] += time.perf_counter() - marked
            seen["sampled"] += len(scored)
            seen["ungraded"] += sum(output.reward is None for output in scored)
            reasons.append(first_reason(scored))
            size = self.stage.group_size
            return [scored[i : i + size] for i in range(0, len(scored), size)]

        groups, counts = collect_groups(
            sample_groups,
            options=self.stage.groups,
            num_groups=self.stage.questions // replicas.count,
            apart=self._weights_apart(),
            agree=self._agree_on_max,
        )
        scored = [output for group in groups for output in group]
        return Rollout(
            scored=scored,
            counts=counts,
            rewards=list(self.asker.phase.weights),
            rollout_s=times["rollout"],
            reward_s=times["reward"],
            sampled_tokens=int(times["tokens"]),
            refits=self.policy.refits - refits,
            domains=self.asker.phase.domains,
            version=self.policy.version,
            num_sampled=seen["sampled"],
            num_ungraded=seen["ungraded"],
            reason=next(filter(None, reasons), ""),
        )

    def _agree_on_max(self, missing: int) -> int:
        return max(self.policy.replicas.gather([missing]))

    # ---- from scores to sequences

    def _with_logprobs(self, sequences: list[TrainSequence]) -> list[TrainSequence]:
        """Add the log-probs of the policy before the update and of the reference, where they are needed."""
        for name in self._scored_inputs():
            found = self.policy.logprobs(
                sequences, reference=name == "ref_logprobs", temperature=self.stage.temperature
            )
            sequences = [
                replace(sequence, loss_inputs=replace(sequence.loss_inputs, **{name: values}))
                for sequence, values in zip(sequences, found, strict=True)
            ]
        return sequences

    def _scored_inputs(self) -> list[LossInput]:
        names: list[LossInput] = []
        if self.stage.updates * self.stage.inner_epochs > 1:
            # with one update the policy is the one that sampled: its own log-probs serve
            names.append("old_logprobs")
        if self.stage.loss.needs_reference:
            names.append("ref_logprobs")
        return names

    def _checked(self, sequences: list[TrainSequence]) -> list[TrainSequence]:
        """_with_logprobs in the first step: sampler, policy and reference still are the same weights."""
        gates, name, replicas = self.stage.gates, self.context.name, self.policy.replicas
        start = self.policy.logprobs(sequences, temperature=self.stage.temperature)
        gates.require_same_sampler(name, replicas, sequences, start)
        sequences = self._with_logprobs(sequences)
        if self.stage.loss.needs_reference:
            gates.require_same_reference(name, replicas, sequences, start)
        return sequences

    # ---- updates

    def _update(
        self, sequences: list[TrainSequence], updates: list[list[int]], step: int, *, max_length: int
    ) -> list[StepStats]:
        stats = []
        for members in updates:
            mine = [sequences[index] for index in members]
            stats.append(
                self.policy.train_step(
                    self._weighted(mine, max_length=max_length),
                    self.stage.loss.function(),
                    lr=self._lr(step),
                    temperature=self.stage.temperature,
                    entropy=True,
                )
            )
            self.updates_done += 1
        before = self.updates_done - len(stats)
        if self.stage.loss.needs_reference and reference_is_due(
            before=before, after=self.updates_done, every=self.stage.reference_every
        ):
            self.policy.refresh_reference()
        return stats

    def _weighted(self, mine: list[TrainSequence], *, max_length: int) -> list[TrainSequence]:
        """The update's sequences with their final weights; one of padding for a replica without any."""
        lengths = [int((s.weights > 0).sum()) for s in mine]
        total = self.policy.replicas.sum({"outputs": float(len(mine)), "tokens": float(sum(lengths))})
        if not mine:
            names: list[LossInput] = ["advantages", "rollout_logprobs", *self._scored_inputs()]
            if self.stage.max_off_policy_steps:
                names.append("fresh")
            return [idle_sequence(self.context.tokenizer.eos_id, loss_inputs=names)]
        shares = token_weights(
            lengths,
            aggregation=self.stage.aggregation,
            num_outputs=int(total["outputs"]),
            num_tokens=int(total["tokens"]),
            max_length=max_length,
        )
        return [replace(s, weights=s.weights * share) for s, share in zip(mine, shares, strict=True)]

    def _lr(self, step: int) -> float:
        return self.stage.optim.lr_at(step, self.stage.steps)
