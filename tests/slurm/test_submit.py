"""Runs on a real SLURM: chained, preempted, killed, failed, cancelled, two at once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from megatron_r1.launch.slurm.restarts import attempts
from tests.end_to_end.micro_run import REPOSITORY, lines, metrics, tensor_digests
from tests.huggingface import made_model
from tests.slurm.runs import LAYOUT, SMALL, TIMEOUT_S, everything, job_ids, job_log

pytestmark = pytest.mark.slow

STAGES = ("base", "zero", "measure")
ENDLESS = ("stages.base.steps=100000", "stages.base.checkpoint_every=100000")


def test_the_chain_runs_over_two_nodes_with_two_ranks_each(slurm, runs):
    good, _ = runs
    assert [slurm.state(job) for job in job_ids(good).values()] == ["COMPLETED"] * 3, everything(good)
    for name in STAGES:
        assert (good / name / "artifact.json").is_file()
    for rank in range(4):
        log = (good / "logs" / f"rank{rank}.log").read_text()
        starts = re.findall(r"^=== rank (\d) on (\w+), job", log, re.M)
        assert starts == [(str(rank), f"node{rank // 2 + 1}")] * 3, "SLURM's order, one start a stage"


def test_the_script_the_configuration_and_the_commit_are_kept(runs):
    good, _ = runs
    for name in STAGES:
        script = (good / "slurm" / f"{name}.sbatch").read_text()
        assert f"#SBATCH --job-name=micro.{name}\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n" in script
    commit = (good / "slurm" / "code.txt").read_text().strip()
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit)
    assert f"code: {commit}" in script
    assert "ranks_per_node: 2" in (good / "resolved.yaml").read_text()


def test_status_and_logs_tell_the_truth_all_the_while(slurm, runs):
    good, _ = runs
    seen = "\n".join(slurm.watched)
    # a stage's six steps may fall between two looks; its start, which imports torch, can't
    assert re.search(r"(base|zero|measure) +\d+ +running for \S+ on node\[1-2\]", seen)
    assert re.search(r"measure +\d+ +pending \(Dependency\)", seen)
    assert re.search(r"zero +\d+ +done +6/6 +-?\d\.\d{3}", slurm.call("status", str(good)))
    assert "measure 1/1" in slurm.call("logs", str(good), "--rank", "0")
    assert "stage zero is done" in slurm.call("logs", str(good), "--stage", "zero")


def test_a_failed_stage_cancels_the_rest_and_is_explained(slurm, runs):
    _, bad = runs
    ended = [slurm.state(job) for job in job_ids(bad).values()]
    assert ended == ["FAILED", "CANCELLED", "CANCELLED"], everything(bad)
    log = job_log(bad, "base")
    assert re.search(r"error: rank \d of 2 on node\d ended with exit code 5; stage base, step 1", log)
    assert "another try would end the same way" in log
    assert log.index("--- the end of") < log.index("error: rank")
    assert [one.outcome for one in attempts(bad)] == ["failed"]
    assert "base: error: stage base failed at step 1" in slurm.call("status", str(bad))


def test_a_run_from_outside_the_repository_finds_its_files_and_its_ranks_have_their_cores(runs):
    _, bad = runs
    for rank in range(2):
        log = (bad / "logs" / f"rank{rank}.log").read_text()
        cores = re.findall(r"^cores \[(.*)\]$", log, re.M)
        assert cores, everything(bad)
        assert len(cores[0].split(", ")) == min(2, len(os.sched_getaffinity(0))), "cpus_per_rank of them"


def test_a_finished_run_submits_nothing(slurm, runs):
    good, _ = runs
    assert "every stage of" in slurm.submit(good, *LAYOUT)


@pytest.fixture
def with_base(runs, tmp_path) -> Path:
    """A run whose first stage is done."""
    folder = tmp_path / "run"
    shutil.copytree(runs[0] / "base", folder / "base")
    shutil.copy(runs[0] / "tokenizer.model", folder)
    return folder


def test_preempted_and_killed_it_ends_bit_for_bit_as_if_nothing_had_happened(slurm, runs, with_base):
    folder, whole = with_base, runs[0]
    slurm.submit(folder, *LAYOUT)
    jobs = job_ids(folder)
    assert list(jobs) == ["zero", "measure"], "base is done"
    progress = folder / "zero" / "metrics.jsonl"
    slurm.wait(lambda: len(lines(progress)) >= 2, "two steps of zero", run_dir=folder)
    slurm.slurm("scancel", "--signal=USR1", str(jobs["zero"]))
    slurm.wait(lambda: len(attempts(folder)) == 1, "the first end", run_dir=folder)
    (first,) = attempts(folder)
    assert (first.outcome, first.restart) == ("interrupted", 0), everything(folder)
    assert 1 <= first.step < 6
    slurm.wait(lambda: _beat(folder) > first.step, "the first step after it", run_dir=folder)
    (rank,) = (p for p in psutil.process_iter() if _is_rank(p, folder, rank=2))
    rank.send_signal(signal.SIGKILL)
    assert slurm.wait_for_end(folder, *jobs.values()) == ["COMPLETED"] * 2, everything(folder)

    assert [one.outcome for one in attempts(folder)] == ["interrupted", "failed", "done", "done"]
    assert "error: rank 2 of 4 on node2 was killed by SIGKILL; stage zero, step" in job_log(folder, "zero")
    assert "stage zero, job " in job_log(folder, "zero")
    assert ", restart 2, on node[1-2]" in job_log(folder, "zero")
    for stage in ("zero", "measure"):
        assert metrics(folder / stage) == metrics(whole / stage)
        ours, theirs = ((run / stage / "samples.jsonl").read_bytes() for run in (folder, whole))
        assert ours == theirs
    assert tensor_digests(folder / "zero") == tensor_digests(whole / "zero")


def test_a_second_submit_is_refused_and_cancel_saves_and_revives_nothing(slurm, tmp_path):
    folder = tmp_path / "run"
    slurm.submit(folder, *SMALL, *ENDLESS)
    jobs = job_ids(folder)
    refused = slurm.submit(folder, *SMALL, *ENDLESS, expect=7)
    assert f"jobs of this run are in the queue: {jobs['base']} (" in refused
    assert job_ids(folder) == jobs
    slurm.wait(lambda: _beat(folder) >= 2, "two steps", run_dir=folder)
    assert f"cancelled {jobs['base']}, {jobs['zero']}, {jobs['measure']}" in slurm.call("cancel", str(folder))
    assert slurm.wait_for_end(folder, *jobs.values()) == ["CANCELLED"] * 3
    saved = list((folder / "base" / "checkpoint").glob("step_*/manifest.json"))
    assert len(saved) == 1, everything(folder)
    assert all(slurm.is_over(job) for job in jobs.values()), "a requeue would have revived it"
    assert "no job of this run is in the queue" in slurm.call("cancel", str(folder))


def test_an_impossible_request_is_refused_in_slurms_words_and_leaves_nothing(slurm, tmp_path):
    too_many = (*LAYOUT, "slurm.ranks_per_node=1")  # 4 nodes, there are 2
    for extra in ([], ["--dry-run"]):
        output = slurm.submit(tmp_path / "run", *too_many, *extra, expect=8)
        assert "Requested node configuration is not available" in output
    assert slurm.slurm("squeue", "--noheader", "--name=micro.base", "--states=PENDING,RUNNING") == ""


def test_a_dry_run_prints_the_scripts_and_slurms_opinion(slurm, tmp_path):
    output = slurm.submit(tmp_path / "run", *LAYOUT, "--dry-run")
    assert output.count("#!/usr/bin/env bash") == 3
    seeds = slurm.submit(tmp_path / "run", *SMALL, "--dry-run", "--seeds", "7,8")
    assert seeds.count("#!/usr/bin/env bash") == 6
    for seed in (7, 8):
        assert seeds.count(f"#SBATCH --job-name=micro_seed{seed}.") == 3
        assert str(tmp_path / f"run_seed{seed}") in seeds
    assert re.search(r"### base: sbatch --test-only says: Job \d+ to start at .* on nodes node", output)
    assert not (tmp_path / "run").exists()


def test_the_tasks_of_srun_share_a_conversion(slurm, tmp_path):
    source = made_model.write(tmp_path / "model", made_model.QWEN)
    for kind, first, second in (("import", source, "checkpoint"), ("export", tmp_path / "checkpoint", "out")):
        words = ["-m", "megatron_r1", "convert", kind, str(first), str(tmp_path / second)]
        done = subprocess.run(
            ["srun", "--nodes=2", "--ntasks-per-node=1", "--time=5", sys.executable, *words],
            cwd=REPOSITORY, env=slurm.env, capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("wrote ") == 1  # by the first rank alone
    before, after = (load_file(path / "model.safetensors") for path in (source, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def _beat(folder: Path) -> int:
    path = folder / "logs" / "rank0.json"
    return json.loads(path.read_text())["step"] if path.exists() else 0


def _is_rank(process: psutil.Process, folder: Path, *, rank: int) -> bool:
    try:
        words = process.cmdline()
        ours = "megatron_r1.launch.slurm.task" in words and str(folder) in words and "srun" not in words[0]
        return ours and process.environ().get("SLURM_PROCID") == str(rank)
    except psutil.NoSuchProcess:
        return False
