"""What a stage writes into its directory: metrics, samples, progress and checkpoints, and when it stops."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_r1.backend.checkpoint.files import numbered, prune
from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.errors import DataError, Interrupted
from megatron_r1.files.run_directory import CHECKPOINTS, PROFILE, note_saved
from megatron_r1.run.config import RunConfig
from megatron_r1.runtime import env_vars, heartbeat, signals
from megatron_r1.runtime.step_profile import StepProfile
from megatron_r1.stages.base import StageConfig
from megatron_r1.stages.training import TrainingStage
from megatron_r1.tracking.jsonl import JsonLines
from megatron_r1.tracking.metrics import require_valid
from megatron_r1.tracking.progress import Progress
from megatron_r1.tracking.samples import Sample, SamplesWriter
from megatron_r1.tracking.tracker import Outcome, StageInfo, Trackers
from megatron_r1.types import Policy, Scored


class StageJournal:
    """stages.context.Journal in the stage's directory."""

    def __init__(
        self,
        name: str,
        directory: Path,
        policy: Policy,
        *,
        stage: StageConfig,
        state: Mapping[str, Any],
        run: RunConfig | None = None,
    ) -> None:
        """state: of the checkpoint that the stage goes on from; empty at its first start.

        run: names the trackers; None: metrics.jsonl alone.
        """
        self.name, self.directory, self.policy = name, directory, policy
        self.start = self.last_step = int(state.get("step", 0))
        self._is_main = main = policy.replicas.is_main
        self.metrics = JsonLines(directory)
        self.sample_log = SamplesWriter(directory, is_main=main)
        training = isinstance(stage, TrainingStage)
        self._keep = stage.keep_checkpoints if training else 1
        total = stage.steps if training else 1
        self.progress = Progress(total, name, start=self.start, is_main=main)
        self.last_metrics: dict[str, float] = dict(state.get("metrics", {}))
        self._began = time.monotonic() - float(state.get("seconds", 0.0))
        self._checkpoints = directory / CHECKPOINTS
        self._stopping = False
        self._there = directory.is_dir()
        profiled = main and os.environ.get(env_vars.PROFILE) == "1"
        self._profile = StepProfile(directory / PROFILE, device()) if profiled else None
        # a first start finds nothing to keep: step 0 (the base before RL) is written anew as well
        kept = self.start if state else -1
        self._info = StageInfo(
            run="" if run is None else run.name,
            stage=name,
            directory=directory,
            config={} if run is None else run.model_dump(mode="json"),
            kept_step=kept,
        )
        self.trackers = Trackers(run.chosen_trackers() if main and run is not None else {})
        if main:
            self.metrics.start(self._info)
        self.sample_log.truncate_after(kept)

    def __enter__(self) -> "StageJournal":
        self.progress.__enter__()
        self.trackers.start(self._info)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.__exit__(kind, error, trace)
        self.trackers.finish(_outcome(error))

    def expect(self, steps: int) -> None:
        self.progress.expect(steps)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._require_own_directory()
        self.last_step, self.last_metrics = step, dict(metrics)
        heartbeat.beat(self.name, step)
        require_valid(metrics, step=step, where=str(self.metrics.path))
        if self._is_main:
            numbers = {metric: float(value) for metric, value in metrics.items()}
            self.metrics.log(step, numbers)
            self.trackers.log(step, numbers)
        self.progress.update(step, _headline(metrics))
        if self._profile is not None:
            self._profile.step(step)

    def samples(self, step: int, scored: Sequence[Scored]) -> None:
        mine = [Sample.of(one, step=step) for one in scored]
        samples = self.policy.replicas.gather(mine)
        self.sample_log.write(samples)
        self.trackers.samples(step, samples)

    def checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        self._save(step, state)
        if self._stopping:
            raise Interrupted(f"stage {self.name} is saved at step {step}; run the same command to continue")

    def stop_here(self) -> bool:
        # a signal reaches the ranks a step apart: they act on it together, those of one replica too
        self._stopping = self.policy.replicas.any_rank(signals.stop_requested())
        return self._stopping

    def seconds(self) -> float:
        """Wall clock of the stage, earlier starts included."""
        return time.monotonic() - self._began

    def finish(self) -> str:
        """The final weights, as the artifact names them; earlier checkpoints of the stage go."""
        path = self._save(self.last_step, {})
        if self.policy.replicas.is_main:
            prune(self._checkpoints, keep=1)
        return str(path.relative_to(self.directory))

    def _require_own_directory(self) -> None:
        """Raise DataError where the stage's directory is gone: what is still written would look whole."""
        if self._there and self.policy.replicas.is_main and not self.directory.is_dir():
            raise DataError(
                f"{self.directory}: removed while stage {self.name} was running, after step "
                f"{self.last_step}; the run ends here: nothing could go on from what it would still write"
            )

    def _save(self, step: int, state: Mapping[str, Any]) -> Path:
        self._require_own_directory()
        path = numbered(self._checkpoints, step)
        own = {"step": step, "seconds": self.seconds(), "metrics": self.last_metrics}
        if self._is_main:
            self.metrics.sync()  # what a checkpoint goes on from must not be lost with the machine
        self.sample_log.sync()
        self.policy.save(path, {**state, **own})
        if self.policy.replicas.is_main:
            note_saved(self.directory, step)
            prune(self._checkpoints, keep=self._keep)
        return path


def _outcome(error: BaseException | None) -> Outcome:
    if error is None:
        return "finished"
    return "interrupted" if isinstance(error, Interrupted) else "failed"


def _headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """The few numbers of the progress line."""
    shown = (
        "train/reward", "train/loss", "rollout/kept", "rollout/length", "eval/accuracy",
    )  # fmt: skip
    return {name.split("/")[1]: metrics[name] for name in shown if name in metrics}
