"""The loop of every stage that trains: update, measure, log, checkpoint, stop when asked to, and resume.

Within a step, measurements see the weights after the update and join the step's line of metrics; a checkpoint
is written after that line. Also here: an update by cross entropy.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import EvaluateEvery, evaluate
from megatron_r1.types import PackedBatch, StepStats, TrainSequence

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured between updates: every so many steps after `first`, and after the last one.

    before_training: before the first update as well, as step 0.
    """

    measure: Callable[[], Metrics]
    every: int
    last: int
    first: int = 0
    before_training: bool = False

    def is_due(self, done: int) -> bool:
        """done: how many steps are."""
        beyond = done - self.first
        return beyond >= 0 and (beyond % self.every == 0 or done == self.last)


def train(
    context: StageContext,
    step: Callable[[int], Metrics],
    *,
    steps: int,
    checkpoint_every: int,
    measurements: Sequence[Measurement] = (),
    state: Callable[[], Mapping[str, Any]] = dict,
    goes_on: Callable[[int, Metrics], bool] | None = None,
) -> Metrics:
    """Run the steps that an earlier start has not done; returns the last step's metrics.

    step: does the step of this number, from 0, and returns its metrics. state: what a checkpoint keeps for
    the next start, beside the model. goes_on: whether training goes on after `steps`, asked with the number
    of steps that are done and the metrics of the last. Raises Interrupted when the run was asked to stop and
    is saved.
    """
    journal, done = context.journal, context.start_step
    journal.expect(steps)
    metrics: Metrics = dict(context.state.get("metrics", {}))  # of the step that was saved
    if done == 0:
        base = _measured(one for one in measurements if one.before_training)
        if base:
            journal.step(0, base)
    while done < steps or (goes_on is not None and goes_on(done, metrics)):
        metrics = step(done)
        done += 1
        metrics |= _measured(one for one in measurements if one.is_due(done))
        journal.step(done, metrics)
        if journal.stop_here() or done % checkpoint_every == 0:
            journal.checkpoint(done, state())
    return metrics


def evaluations(context: StageContext, options: EvaluateEvery | None, *, last: int) -> list[Measurement]:
    """The held-out questions of a stage's `evaluate`, where it has one. last: the number of steps."""
    if options is None:
        return []
    evaluation = options.evaluation
    return [Measurement(lambda: evaluate(context, evaluation)[0], options.every, last=last)]


def _measured(measurements: Iterable[Measurement]) -> Metrics:
    found: Metrics = {}
    for one in measurements:
        found |= one.measure()
    return found


def next_token_loss(
    logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """[T] cross entropy; the mean lies in the weights."""
    return -logprobs, {}


def supervised_update(
    context: StageContext, sequences: Sequence[TrainSequence], *, lr: float, mtp: bool
) -> Metrics:
    """One update on this replica's sequences; the loss is the weighted mean over all replicas' tokens.

    Returns the metrics of the step.
    """
    began = time.perf_counter()
    total = context.policy.replicas.sum({"weight": float(sum(s.weights.sum() for s in sequences))})["weight"]
    batch = [replace(s, weights=s.weights / total) for s in sequences]
    stats = context.policy.train_step(batch, next_token_loss, lr=lr, mtp=mtp)
    return supervised_metrics(stats, lr=lr, elapsed_s=time.perf_counter() - began)


def supervised_metrics(stats: StepStats, *, lr: float, elapsed_s: float) -> Metrics:
    """The metrics of a step that is one update."""
    return {
        "train/loss": stats.loss,
        "train/grad_norm": stats.grad_norm,
        "train/lr": lr,
        "train/tokens_per_s": stats.num_tokens / elapsed_s,
        "time/step_s": elapsed_s,
        **{f"train/{name}": value for name, value in stats.metrics.items()},
    }
