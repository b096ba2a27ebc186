"""Starts the command line on micro.yaml and reads what it leaves."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("micro.yaml")
R1_CONFIG = Path(__file__).with_name("micro_r1.yaml")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
TIMEOUT_S = 400.0  # a chain takes 10 s on an idle machine; several tests may share a busy one


def micro_text() -> str:
    """micro.yaml, to be written into another folder."""
    return CONFIG.read_text().replace("../../examples", str(REPOSITORY / "examples"))


def start(
    run_dir: Path, *arguments: str, config: Path = CONFIG, log_path: Path | None = None, **options: Any
) -> subprocess.Popen[str]:
    """`megatron-r1 run` as a process; its output goes to log_path, by default beside the run."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "megatron_r1", "run", str(config), "--run-dir", str(run_dir), *arguments]
    with (log_path or log_of(run_dir)).open("w") as log:
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )


def log_of(run_dir: Path) -> Path:
    return run_dir.with_name(run_dir.name + ".log")


def run(run_dir: Path, *arguments: str, expect: int = 0, log_path: Path | None = None, **options: Any) -> str:
    """The output of a whole run; asserts its exit code."""
    process = start(run_dir, *arguments, log_path=log_path, **options)
    try:
        code = process.wait(TIMEOUT_S)
    finally:
        process.kill()
    output = (log_path or log_of(run_dir)).read_text()
    assert code == expect, f"exit code {code}:\n{output}"
    return output


def wait_until(condition: Callable[[], bool], *, process: subprocess.Popen[str]) -> None:
    """Until the condition holds; fails if the process ends before."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode} too early"
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.005)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def metrics(stage: Path) -> list[dict[str, float]]:
    """A stage's metrics without what depends on the clock, or on whether a run was interrupted."""
    return [
        {
            k: v
            for k, v in line.items()
            if not k.startswith(("time/", "refit/")) and not k.endswith("tokens_per_s")
        }
        for line in lines(stage / "metrics.jsonl")
    ]


def tensor_digests(stage: Path) -> dict[str, str]:
    """BLAKE3 of the files with the tensors of the final checkpoint."""
    artifact = json.loads((stage / "artifact.json").read_text())
    manifest = json.loads((stage / artifact["checkpoint"] / "manifest.json").read_text())
    return {n: file["blake3"] for n, file in manifest["files"].items() if n.endswith(".distcp")}
