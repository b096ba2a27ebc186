"""kill -9 of a random rank at a random moment of one stage after the other, each followed by a resume.

    python -m tests.end_to_end.chaos FOLDER [KILLS] [SEED] [CONFIG]

CONFIG: micro.yaml beside this file, or micro_all.yaml with samples, pairs, a reward model and RL with it.

The ranks are forked from this process, which has imported everything, so that a start takes no time; they run
what `python -m megatron_r1.launch.rank` runs. Runs that end before their next kill are followed by new ones.
In the end every run must be, bit for bit, the one that nobody touched. Prints a line a kill; exit code 1 and
the differences if there are any.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

from megatron_r1.launch.local import write_resolved
from megatron_r1.run.config import RunConfig, load_run
from tests.end_to_end.micro_run import CONFIG, lines, metrics, tensor_digests

RANKS = 2
OVERRIDES = ("layout.ranks=2", "layout.expert=2", "stages.base.checkpoint_every=2")


def main(folder: Path, kills: int, seed: int, config: str) -> int:
    _import_everything()
    run_config = load_run(CONFIG.with_name(config), overrides=OVERRIDES).value
    stages = list(run_config.stages)
    whole = folder / "whole"
    _prepare(whole, run_config)
    _finish(whole)
    draws = random.Random(seed)
    runs = [folder / "run0"]
    _prepare(runs[-1], run_config)
    done = 0
    while done < kills:
        stage = stages[done % len(stages)]
        after_s = draws.uniform(0.0, _seconds(whole / stage))
        victim = draws.randrange(RANKS)
        if _run(runs[-1], kill=(victim, stage, after_s)):
            runs.append(folder / f"run{len(runs)}")
            _prepare(runs[-1], run_config)
            continue
        done += 1
        where = _where(runs[-1], stages)
        sys.stdout.write(
            f"kill {done}: rank {victim} of {runs[-1].name} {after_s:.1f} s into {stage}, {where}\n"
        )
        sys.stdout.flush()
    _finish(runs[-1])
    return _compare(whole, runs, stages)


def _import_everything() -> None:
    import megatron_r1.backend.policy
    import megatron_r1.backend.rollout.dynamic_engine
    import megatron_r1.run.chain  # noqa: F401


def _prepare(run_dir: Path, config: RunConfig) -> None:
    (run_dir / "logs").mkdir(parents=True)
    write_resolved(config, run_dir)


def _finish(run_dir: Path) -> None:
    assert _run(run_dir, kill=None), (run_dir / "logs" / "rank0.log").read_text()[-4000:]


def _seconds(stage: Path) -> float:
    return json.loads((stage / "artifact.json").read_text())["metrics"]["time/stage_s"]


def _run(run_dir: Path, *, kill: tuple[int, str, float] | None) -> bool:
    """Start the ranks, kill one of them so many seconds into a stage; whether they ended well before."""
    port = _free_port()
    pids = [_fork(run_dir, rank, port) for rank in range(RANKS)]
    deadline: float | None = None
    left = dict(enumerate(pids))
    codes: list[int] = []
    while left and (deadline is None or time.monotonic() < deadline) and not any(codes):
        if deadline is None and kill is not None and (run_dir / kill[1] / "resolved.yaml").exists():
            deadline = time.monotonic() + kill[2]
        for rank, pid in list(left.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes.append(os.waitstatus_to_exitcode(status))
                del left[rank]
        time.sleep(0.01)
    if not left or any(codes):
        assert not any(codes), (run_dir / "logs" / "rank0.log").read_text()[-4000:]
        return True
    order = [kill[0], *range(RANKS)] if kill is not None else list(range(RANKS))
    for rank in order:  # the others soon after, as the launcher does
        if rank in left:
            os.kill(left[rank], signal.SIGKILL)
            os.waitpid(left.pop(rank), 0)
            time.sleep(0.1)
    return False


def _fork(run_dir: Path, rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_WORLD_SIZE=str(RANKS),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    log = os.open(run_dir / "logs" / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from megatron_r1.launch.rank import main as run_rank

    os._exit(run_rank(run_dir))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _where(run_dir: Path, stages: list[str]) -> str:
    """How far the run's files say that it was."""
    done = [name for name in stages if (run_dir / name / "artifact.json").exists()]
    found = [(name, lines(run_dir / name / "metrics.jsonl")) for name in stages]
    steps = [f"{name} step {line[-1]['step']}" for name, line in found if line]
    return f"{len(done)} stages done, {steps[-1] if steps else 'before the first step'}"


def _compare(whole: Path, runs: list[Path], stages: list[str]) -> int:
    differences = []
    for run in runs:
        if not (run / stages[-1] / "artifact.json").exists():
            continue  # prepared for a kill that came no more
        for name in stages:
            ours, theirs = _bits(run / name), _bits(whole / name)
            differences += [
                f"{run.name}: other {what} in {name}" for what in theirs if ours[what] != theirs[what]
            ]
    sys.stdout.write("\n".join(differences or [f"{len(runs)} runs, all as if never touched"]) + "\n")
    return 1 if differences else 0


def _bits(stage: Path) -> dict[str, object]:
    """What must be the same: weights, data, the hashes of the inputs, figures and samples."""
    artifact = json.loads((stage / "artifact.json").read_text())
    samples = stage / "samples.jsonl"
    return {
        "weights": tensor_digests(stage) if artifact["checkpoint"] else None,
        "data": artifact["outputs"],
        "inputs": artifact["inputs"],
        "metrics": metrics(stage),
        "samples": samples.read_bytes() if samples.exists() else None,
    }


if __name__ == "__main__":
    given = sys.argv[1:]
    folder, kills, seed, config = [*given, *("30", "0", CONFIG.name)[len(given) - 1 :]]
    sys.exit(main(Path(folder), int(kills), int(seed), config))
