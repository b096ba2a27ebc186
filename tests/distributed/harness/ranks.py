"""Runs scenarios on real gloo ranks: the ranks start once and work through a list, for imports take long.

A scenario is a function of tests/backend/scenarios, called on every rank in its layout; what it returns on
each rank becomes the result that the tests assert on. Process groups serve all scenarios of one layout in a
row. Where one raises or hangs, the ranks are ended, their logs are kept for the tests that ask for that
scenario, and new ranks go on with the rest.
"""

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[3]
START_TIMEOUT_S = 180.0  # importing torch and megatron on a busy machine
LOG_LINES = 40
EXIT_CODES = "exit_codes"
STACKS_BEFORE_S = 15.0  # into the log, so long before a scenario is overdue
GIVE_UP_AFTER = 3  # starts in a row that gave no result
# the ranks never met: a port was taken between the choice and the start, and gloo fails, or waits beyond its
# own timeout (the stacks of an overdue scenario say so). Not a result: started again
NOT_CONNECTED = ("connectFullMesh failed", " in _new_process_group_helper")

asked_by: pytest.Item | None = None  # the test that is running (tests/conftest.py)


@dataclass(frozen=True)
class Scenario:
    """name: of its result. function: "module.function" in tests/backend/scenarios."""

    name: str
    function: str
    layout: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 240.0  # far above what any needs: the machine may be busy


class Results:
    """What each rank returned, by scenario."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ranks(self, name: str) -> list[Any]:
        failure = self.folder / f"{name}.failure"
        if failure.exists():
            pytest.fail(f"scenario {name}: {failure.read_text()}", pytrace=False)
        return json.loads((self.folder / f"{name}.json").read_text())

    def __getitem__(self, name: str) -> Any:
        """Of rank 0."""
        return self.ranks(name)[0]


def run_scenarios(num_ranks: int, scenarios: Sequence[Scenario], folder: Path, *, shared: Path) -> Results:
    """folder: for results and logs. shared: where scenarios leave checkpoints for later ones."""
    if asked_by is not None and asked_by.get_closest_marker("slow") is None:
        pytest.fail(f"{asked_by.nodeid} starts ranks: mark it slow", pytrace=False)
    folder.mkdir(parents=True, exist_ok=True)
    remaining, failures, reconnects = list(scenarios), 0, 2
    while remaining:
        _run_until_failure(num_ranks, remaining, folder, shared)
        left = [s for s in remaining if not (folder / f"{s.name}.json").exists()]
        if left and reconnects and any(words in _logs(folder, num_ranks) for words in NOT_CONNECTED):
            remaining, reconnects = left, reconnects - 1
            continue
        failures = failures + 1 if len(left) == len(remaining) else 1
        # where nothing works, such as an import, each new start would only fail again
        given_up = left if failures == GIVE_UP_AFTER else left[:1]
        for scenario in given_up:
            (folder / f"{scenario.name}.failure").write_text(_logs(folder, num_ranks))
        remaining = left[len(given_up) :]
    return Results(folder)


def _run_until_failure(num_ranks: int, scenarios: Sequence[Scenario], folder: Path, shared: Path) -> None:
    ports = _free_ports(len(scenarios))
    work = [{**asdict(s), "port": port} for s, port in zip(scenarios, ports, strict=True)]
    (folder / "scenarios.json").write_text(json.dumps(work))
    (folder / EXIT_CODES).unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in range(num_ranks):
            log = stack.enter_context((folder / f"rank{rank}.log").open("w"))
            ranks.append(_start_rank(rank, num_ranks, folder, shared, log))
        try:
            _wait(ranks, scenarios, folder)
        finally:
            for process in ranks:
                process.kill()
                process.wait()


def _start_rank(rank: int, num_ranks: int, folder: Path, shared: Path, log: Any) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "tests.distributed.harness.ranks", str(folder), str(shared)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _wait(ranks: Sequence[subprocess.Popen[bytes]], scenarios: Sequence[Scenario], folder: Path) -> None:
    """Until all ranks are done, one has failed, or the next result is overdue."""
    limit_s, began = START_TIMEOUT_S, time.monotonic()
    waiting = list(scenarios)
    while waiting and time.monotonic() - began < limit_s + waiting[0].timeout_s:
        if (folder / f"{waiting[0].name}.json").exists():
            waiting.pop(0)
            limit_s, began = 0.0, time.monotonic()
            continue
        codes = [process.poll() for process in ranks]
        if any(codes):
            (folder / EXIT_CODES).write_text(f"\nthe ranks' exit codes: {codes}")
            time.sleep(0.5)  # the others' logs
            return
        time.sleep(0.02)


def _free_ports(count: int) -> list[int]:
    """One a scenario, below those of the system and of tests/slurm: none of them can be taken meanwhile."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 27_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
    return found


def _logs(folder: Path, num_ranks: int) -> str:
    text = (folder / EXIT_CODES).read_text() if (folder / EXIT_CODES).exists() else "\nno rank had ended"
    for rank in range(num_ranks):
        lines = (folder / f"rank{rank}.log").read_text(errors="replace").splitlines()
        # torch's excepthook adds the prefix once for every process group that was ever started
        lines = [line.replace(f"[rank{rank}]: ", "") for line in lines[-LOG_LINES:]]
        text += f"\n--- rank {rank} ---\n" + "\n".join(lines)
    return text


def _function(path: str) -> Any:
    module, name = path.split(".")
    return getattr(importlib.import_module(f"tests.distributed.scenarios.{module}"), name)


def main(folder: Path, shared: Path) -> None:
    """One rank."""
    import torch
    import torch.distributed as dist

    from megatron_r1.backend.parallel import process_groups
    from megatron_r1.config.layout import Layout

    torch.set_num_threads(1)
    faulthandler.enable()
    scenarios = json.loads((folder / "scenarios.json").read_text())
    functions = [_function(scenario["function"]) for scenario in scenarios]
    gc.freeze()  # what was imported stays: the collection at every scenario's end needn't look at it
    layouts = [Layout(ranks=int(os.environ["WORLD_SIZE"]), **scenario["layout"]) for scenario in scenarios]
    befores, afters = [None, *layouts[:-1]], [*layouts[1:], None]
    for scenario, function, layout, before, after in zip(
        scenarios, functions, layouts, befores, afters, strict=True
    ):
        print(f"=== {scenario['name']}", flush=True)
        began = time.monotonic()
        faulthandler.dump_traceback_later(scenario["timeout_s"] - STACKS_BEFORE_S)
        os.environ["MASTER_PORT"] = str(scenario["port"])
        if layout != before:
            process_groups.start(layout, timeout_s=200)
        result = function(layout, shared, **scenario["arguments"])
        results: list[Any] = [None] * layout.ranks
        dist.all_gather_object(results, result)
        if dist.get_rank() == 0:
            partial = folder / "result.tmp"
            partial.write_text(json.dumps(results))
            partial.rename(folder / f"{scenario['name']}.json")
        dist.barrier()
        if layout == after:
            gc.collect()  # the groups stay: leaving them waits a quarter of a second for gloo's threads
        else:
            process_groups.stop()
        print(f"=== {scenario['name']}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # gloo's threads need no orderly end
