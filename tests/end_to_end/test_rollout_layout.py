"""GRPO whose rollout has a layout of its own: the run is the one without, also where it was interrupted."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.end_to_end.micro_run import lines, log_of, metrics, run, start, tensor_digests, wait_until

pytestmark = pytest.mark.slow

LAYOUTS = ("layout.ranks=2", "layout.expert=2", "rollout.layout={expert: 1}")
EXPERT_BYTES = 2 * 4 * 3 * 16 * 8 * 4  # of the MoE layer and MTP's: experts x (gate, up, down) in fp32


@pytest.fixture(scope="module")
def refitted(expert_parallel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interrupted in its grpo stage and continued; its base is that of the run without."""
    folder = tmp_path_factory.mktemp("refitted") / "micro"
    folder.mkdir()
    shutil.copytree(expert_parallel / "base", folder / "base")
    shutil.copy(expert_parallel / "tokenizer.model", folder)
    process = start(folder, *LAYOUTS)
    wait_until(lambda: len(lines(folder / "zero" / "metrics.jsonl")) >= 2, process=process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75, log_of(folder).read_text()
    run(folder, *LAYOUTS)
    return folder


@pytest.mark.parametrize("stage", ["zero", "measure"])
def test_rewards_and_all_other_metrics_are_those_of_the_run_without(
    expert_parallel: Path, refitted: Path, stage: str
) -> None:
    expected, found = metrics(expert_parallel / stage), metrics(refitted / stage)
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-5)


def test_the_weights_are_bit_for_bit_those_of_the_run_without(expert_parallel: Path, refitted: Path) -> None:
    assert tensor_digests(refitted / "zero") == tensor_digests(expert_parallel / "zero")


def test_every_refit_moves_the_experts_that_a_rank_lacks(expert_parallel: Path, refitted: Path) -> None:
    moved = [line["refit/bytes"] for line in lines(refitted / "zero" / "metrics.jsonl")[1:]]
    assert set(moved) == {0.0, EXPERT_BYTES}, "none where an evaluation has just sampled the same weights"
    for line in lines(expert_parallel / "zero" / "metrics.jsonl")[1:]:
        assert line["refit/bytes"] == line["refit/seconds"] == 0
