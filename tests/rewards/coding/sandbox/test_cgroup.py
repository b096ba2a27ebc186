"""Control groups around sandboxes: what this machine lends, and that none is left behind."""

import os
import subprocess
from pathlib import Path

import pytest

from megatron_r1.rewards.coding.sandbox import cgroup
from megatron_r1.rewards.coding.sandbox.limits import MIB, Limits
from megatron_r1.rewards.coding.sandbox.run import Fate, run_program
from tests.rewards.coding.sandbox.conftest import SMALL, needs_sandbox


def groups() -> list[Path]:
    where = cgroup.lent()
    return [] if where is None else list(where.parent.glob(f"r1-*-{os.getpid()}*"))


@needs_sandbox
def test_a_sandbox_leaves_no_group_behind() -> None:
    for source in ("print(1)", "import os\nos.fork()\nwhile True: pass", "import os; os.setsid(); os.fork()"):
        run_program(source, {"function": None}, "", limits=Limits(cpu_s=1.0, processes=8))
        assert groups() == []


def test_groups_of_killed_ranks_are_removed() -> None:
    where = cgroup.lent()
    if where is None:
        pytest.skip("this machine lends no control group")
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = where.parent / f"r1-sandbox-{ended.pid}-0"
    left.mkdir()
    asleep = subprocess.Popen(["/bin/sh", "-c", cgroup.ENTER, str(left / cgroup.MEMBERS), "sleep", "600"])
    cgroup._remove_left_behind(where.parent)
    assert not left.exists()
    assert asleep.wait() != 0


@needs_sandbox
def test_a_group_that_cannot_be_made_is_no_verdict_on_the_program(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(cgroup, "lent", lambda: cgroup.Lent(tmp_path / "gone", memory=True, processes=True))
    ran = run_program("print(1)", {"function": None}, "", limits=SMALL)
    assert (ran.fate, ran.stdout) == (Fate.NOT_RUN, b"")
    assert "no control group" in ran.stderr


def test_limits_stand_in_the_group_where_it_has_the_controllers(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(cgroup, "lent", lambda: cgroup.Lent(tmp_path, memory=True, processes=True))
    monkeypatch.setattr(cgroup, "_remove", lambda path: None)
    with cgroup.group(Limits(memory_bytes=100 * MIB, disk_bytes=10 * MIB, processes=5)) as group:
        assert group is not None
        written = {path.name: int(path.read_text()) for path in group.path.iterdir()}
    assert written == {"memory.max": 126 * MIB, "memory.oom.group": 1, "pids.max": 13}
    (group.path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n")
    assert group.ran_out_of_memory()
    (group.path / "memory.events").write_text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\n")
    assert not group.ran_out_of_memory()  # the machine's lack of memory


def test_it_says_which_bounds_hold(monkeypatch, tmp_path) -> None:
    for lent, words in (
        (None, "No control group is lent"),
        (cgroup.Lent(tmp_path, memory=False, processes=False), "CPU time (in"),
        (cgroup.Lent(tmp_path, memory=True, processes=True), "CPU time, memory, processes (in"),
    ):
        monkeypatch.setattr(cgroup, "lent", lambda lent=lent: lent)
        assert words in cgroup.holds()
