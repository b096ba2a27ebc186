"""What trackers get, and what becomes of a run when one fails."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_r1.errors import GateError, Interrupted
from megatron_r1.run.stage_runner import StageJournal
from megatron_r1.tracking.jsonl import JsonLines, read_metrics
from megatron_r1.tracking.tensorboard import EventFile, TensorBoard
from megatron_r1.tracking.tracker import StageInfo, Tracker, TrackerConfig, Trackers
from tests.run.toy_run import Learn
from tests.stages.fake_policy import FakePolicy


def info(directory: Path, *, kept_step: int = -1) -> StageInfo:
    return StageInfo(run="r", stage="zero", directory=directory, config={}, kept_step=kept_step)


class Told(Tracker):
    """Remembers its calls, and raises at the one that it is told to."""

    def __init__(self, fails_at: str = "", error: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self._fails_at, self._error = fails_at, error or OSError("no space")

    def _called(self, call: str) -> None:
        self.calls.append(call)
        if call == self._fails_at:
            raise self._error

    def start(self, info: StageInfo) -> None:
        self._called(f"start {info.stage} after {info.kept_step}")

    def log(self, step: int, metrics) -> None:
        metrics["changed"] = 1.0  # its own copy
        self._called(f"log {step}")

    def samples(self, step: int, samples) -> None:
        self._called(f"samples {step} {len(samples)}")

    def finish(self, outcome) -> None:
        self._called(outcome)


def configured(build: Callable[[], Tracker]) -> TrackerConfig:
    class Config(TrackerConfig):
        def build(self) -> Tracker:
            return build()

    return Config()


def trackers(**each: Tracker) -> Trackers:
    return Trackers({name: configured(lambda one=one: one) for name, one in each.items()})


@pytest.mark.parametrize("error", [OSError("no space"), SystemExit(0), ValueError("its own mistake")])
@pytest.mark.parametrize("at", ["start zero after -1", "log 1", "samples 1 0", "finished"])
def test_a_tracker_that_fails_is_said_once_and_closed_and_the_others_go_on(tmp_path, caplog, at, error):
    bad, good = Told(at, error), Told()
    both = trackers(bad=bad, good=good)
    both.start(info(tmp_path))
    for step in (1, 2):
        both.log(step, {"train/loss": 1.0})
        both.samples(step, [])
    both.finish("finished")
    expected = ["start zero after -1", "log 1", "samples 1 0", "log 2", "samples 2 0", "finished"]
    assert good.calls == expected
    assert bad.calls == [*expected[: expected.index(at) + 1], "failed"]
    assert len(caplog.records) == 1
    assert f"the run goes on without it: {type(error).__name__}: {error}" in caplog.text


def test_a_tracker_that_can_t_be_made_is_said(tmp_path, caplog):
    def build() -> Tracker:
        raise ImportError("No module named 'wandb'")

    one = Trackers({"wandb": configured(build)})
    one.start(info(tmp_path))
    one.log(1, {})
    one.finish("finished")
    assert caplog.messages == [
        "tracker wandb: could not be made, and the run goes on without it: "
        "ImportError: No module named 'wandb'"
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "finished"), (Interrupted("saved"), "interrupted"), (GateError("diverged"), "failed"),
     (KeyboardInterrupt(), "failed")],
)  # fmt: skip
def test_trackers_are_closed_on_every_way_out_of_a_stage(tmp_path, error, outcome):
    told = Told()
    journal = StageJournal("zero", tmp_path, FakePolicy(), stage=Learn(kind="learn"), state={"step": 4})
    journal.trackers = trackers(told=told)
    with nullcontext() if error is None else pytest.raises(type(error)), journal:
        journal.step(5, {"train/loss": 1.0})
        if error is not None:
            raise error
    assert told.calls == ["start zero after 4", "log 5", outcome]
    assert [set(line) for line in read_metrics(tmp_path / "metrics.jsonl")] == [{"step", "train/loss"}]


def test_tensorboard_reads_each_step_of_a_resumed_run_once(tmp_path):
    first = TensorBoard().build()
    first.start(info(tmp_path))
    for step in (1, 2, 3, 4):
        first.log(step, {"train/loss": float(step)})
    resumed = EventFile()
    resumed.start(info(tmp_path, kept_step=2))  # the checkpoint was of step 2
    resumed.log(3, {"train/loss": 30.0})
    resumed.finish("finished")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_dead_tensorboard_writer_warns_once_and_the_run_goes_on(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    both = Trackers({"tensorboard": TensorBoard()})
    both.start(info(tmp_path))
    both.log(1, {"train/kl": 0.1})
    both.log(2, {"train/kl": 0.2})
    assert len(caplog.records) == 1
    assert "tracker tensorboard: could not start, and the run goes on without it: FileExists" in caplog.text


def test_a_line_of_metrics_is_flat(tmp_path):
    JsonLines(tmp_path).log(3, {"train/kl": 0.5, "rollout/length": 12})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 3, "train/kl": 0.5, "rollout/length": 12.0}
    assert text.endswith("12.0}\n")
