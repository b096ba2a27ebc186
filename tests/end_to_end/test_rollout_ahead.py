"""GRPO whose rollouts are ahead of training: on two replicas and interrupted it is the run of one rank."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.end_to_end.micro_run import lines, log_of, metrics, run, start, tensor_digests, wait_until

pytestmark = pytest.mark.slow

AHEAD = (
    "stages.zero.rollout.max_off_policy_steps=1",
    "stages.zero.loss.rollout_correction=truncate", "stages.zero.evaluate=null",
)  # fmt: skip


def prepared(base: Path, folder: Path) -> Path:
    """A run whose first stage is done."""
    folder.mkdir()
    shutil.copytree(base / "base", folder / "base")
    shutil.copy(base / "tokenizer.model", folder)
    return folder


@pytest.fixture(scope="module")
def ahead(two_replicas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepared(two_replicas, tmp_path_factory.mktemp("ahead") / "micro")
    run(folder, "layout.ranks=2", *AHEAD)
    return folder


@pytest.fixture(scope="module")
def interrupted(two_replicas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepared(two_replicas, tmp_path_factory.mktemp("interrupted") / "micro")
    process = start(folder, "layout.ranks=2", *AHEAD)
    wait_until(lambda: len(lines(folder / "zero" / "metrics.jsonl")) >= 2, process=process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75, log_of(folder).read_text()
    run(folder, "layout.ranks=2", *AHEAD)
    return folder


def test_tokens_of_older_weights_are_trained_on(ahead: Path) -> None:
    steps = lines(ahead / "zero" / "metrics.jsonl")
    assert [line["rollout/staleness_max"] for line in steps] == [0, 2, 2, 2, 2, 2], "two updates a step"
    assert all(0 < line["rollout/carried"] < 1 for line in steps[1:])
    assert all(line["rollout/drift"] == pytest.approx(1, abs=1e-4) for line in steps)


def test_interrupted_with_outputs_under_way_it_is_bit_for_bit_the_run_without(
    ahead: Path, interrupted: Path
) -> None:
    assert metrics(interrupted / "zero") == metrics(ahead / "zero")
    assert tensor_digests(interrupted / "zero") == tensor_digests(ahead / "zero")


def test_on_one_rank_it_is_the_same_run(one_rank: Path, ahead: Path, tmp_path: Path) -> None:
    folder = prepared(one_rank, tmp_path / "micro")
    run(folder, *AHEAD)
    expected, found = metrics(ahead / "zero"), metrics(folder / "zero")
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-4)
