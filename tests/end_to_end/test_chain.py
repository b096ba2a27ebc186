"""The whole chain on real ranks: the same training in every layout, and as if never interrupted."""

import json
import re
import resource
import shutil
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.micro_run import lines, log_of, metrics, run, start, tensor_digests, wait_until

pytestmark = pytest.mark.slow

STAGES = ("base", "zero", "measure")
EXPERT_PARALLEL = ("layout.ranks=2", "layout.expert=2")


def test_every_stage_leaves_an_artifact_with_its_lineage(one_rank):
    artifacts = {name: json.loads((one_rank / name / "artifact.json").read_text()) for name in STAGES}
    kept = "tokenizer.model"
    assert [list(artifact["inputs"]) for artifact in artifacts.values()] == [
        [kept], ["base", kept], ["zero", kept],
    ]  # fmt: skip
    assert artifacts["measure"]["checkpoint"] is None
    for name in ("base", "zero"):
        assert (one_rank / name / artifacts[name]["checkpoint"] / "manifest.json").is_file()
    assert [line["step"] for line in metrics(one_rank / "base")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in metrics(one_rank / "zero")] == [0, 1, 2, 3, 4, 5, 6]
    assert (one_rank / "report.html").is_file()


def test_the_length_limit_and_the_samples_are_those_of_the_configuration(one_rank):
    samples = lines(one_rank / "zero" / "samples.jsonl")
    longest = {step: max(s["length"] for s in samples if s["step"] == step) for step in range(1, 7)}
    assert longest == {1: 12, 2: 12, 3: 16, 4: 16, 5: 16, 6: 16}  # 16 from update 4 on, two a step
    assert len([s for s in samples if s["step"] == 1]) == 16
    assert len([s for s in samples if s["step"] == 0]) == 4  # the base, before any update


@pytest.mark.parametrize("layout", ["two_replicas", "expert_parallel"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_train_as_one_does(one_rank, layout, stage, request):
    other = request.getfixturevalue(layout)
    expected, found = metrics(one_rank / stage), metrics(other / stage)
    for line in (*expected, *found):  # counts the padding of packs, which depends on the layout
        line.pop("train/expert_load", None)
    assert len(expected) == len(found)
    for one, two in zip(expected, found, strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("layout", ["one_rank", "two_replicas", "expert_parallel"])
def test_expert_load_lies_between_even_and_all_on_two(layout, request):
    for line in metrics(request.getfixturevalue(layout) / "base"):
        assert 1 <= line["train/expert_load"] <= 2  # 4 experts, 2 a token


def test_expert_load_counts_the_tokens_of_all_ranks(two_replicas, expert_parallel):
    loads = [
        [line["train/expert_load"] for line in metrics(run / "base")]
        for run in (two_replicas, expert_parallel)
    ]
    assert loads[0] == pytest.approx(loads[1], rel=1e-6)


@pytest.fixture(scope="module")
def interrupted(expert_parallel, tmp_path_factory) -> Path:
    """A run whose grpo stage was asked to end with SIGTERM; its base is that of the whole run."""
    folder = tmp_path_factory.mktemp("interrupted") / "micro"
    folder.mkdir()
    for name in ("base", "tokenizer.model"):
        source = expert_parallel / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    process = start(folder, *EXPERT_PARALLEL)
    wait_until(lambda: len(lines(folder / "zero" / "metrics.jsonl")) >= 2, process=process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75, log_of(folder).read_text()
    return folder


def test_an_interrupted_run_saves_and_says_how_to_go_on(interrupted):
    step = metrics(interrupted / "zero")[-1]["step"]
    assert 1 <= step < 6
    expected = f"interrupted: stage zero is saved at step {step}; run the same command to continue"
    assert expected in log_of(interrupted).read_text()
    assert (interrupted / "zero" / "checkpoint" / f"step_{step:08d}" / "manifest.json").is_file()
    assert not (interrupted / "zero" / "artifact.json").exists()


def test_a_full_disk_ends_the_run_in_words_and_keeps_the_checkpoint(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "micro")
    before = sorted(path.name for path in (folder / "zero" / "checkpoint").iterdir())
    limit_bytes = 90_000  # below a file of tensors, above the logs and metrics
    output = run(
        folder, *EXPERT_PARALLEL, expect=4,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
    )  # fmt: skip
    assert "error: " in output
    assert "not written: " in output
    assert "Traceback" not in output
    assert sorted(path.name for path in (folder / "zero" / "checkpoint").iterdir()) == before


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(interrupted, expert_parallel):
    finished = (interrupted / "base" / "artifact.json").stat().st_mtime_ns
    run(interrupted, *EXPERT_PARALLEL)
    assert (interrupted / "base" / "artifact.json").stat().st_mtime_ns == finished, "base was skipped"
    for stage in ("zero", "measure"):
        assert metrics(interrupted / stage) == metrics(expert_parallel / stage)
        ours, theirs = (
            (run / stage / "samples.jsonl").read_bytes() for run in (interrupted, expert_parallel)
        )
        assert ours == theirs
    assert tensor_digests(interrupted / "zero") == tensor_digests(expert_parallel / "zero")


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Two ranks in a stage that would take hours."""
    folder = tmp_path_factory.mktemp("endless") / "micro"
    process = start(
        folder, "layout.ranks=2", "stages.base.steps=1000000", "stages.base.checkpoint_every=1000000"
    )
    wait_until(lambda: len(lines(folder / "base" / "metrics.jsonl")) >= 2, process=process)
    yield folder, process
    process.kill()
    process.wait()


def test_a_second_run_in_the_same_directory_is_refused(endless):
    folder, process = endless
    # a log of its own: the first run goes on writing to the other
    output = run(folder, "layout.ranks=2", expect=7, log_path=folder.with_name("second.log"))
    assert f"held by another run (host {socket.gethostname()}, pid {process.pid}" in output


def test_a_killed_rank_ends_the_run_and_is_named(endless):
    folder, process = endless
    (second,) = (c for c in psutil.Process(process.pid).children() if c.environ().get("RANK") == "1")
    second.send_signal(signal.SIGKILL)
    assert process.wait(30) == 128 + signal.SIGKILL
    output = log_of(folder).read_text()
    assert "error: rank 1 of 2 on " in output
    assert "was killed by SIGKILL; stage base, step " in output


def test_a_number_that_is_not_finite_is_traced_to_rank_and_tensor(tmp_path):
    output = run(tmp_path / "micro", "layout.ranks=2", "stages.base.optim.lr=1e30", expect=5)
    assert re.search(r"update 2 of the stage: the .* is (nan|inf); on rank 0, the gradient of \w+\.", output)
    assert "stage base, step 1" in output
