"""What became of a program, in words; and that nothing runs without the sandbox."""

import contextlib
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from megatron_r1.errors import R1Error
from megatron_r1.rewards.code import Code
from megatron_r1.rewards.coding.sandbox import cgroup, command, proof, seccomp
from megatron_r1.rewards.coding.sandbox.run import Fate, Ran, run_program
from tests.rewards.coding.sandbox.conftest import SMALL, needs_sandbox


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "fate"),
    [
        ("print(1)", Fate.DONE),
        ("import sys; sys.exit(0)", Fate.DONE),
        ("print(", Fate.COMPILE_ERROR),
        ("\0", Fate.COMPILE_ERROR),
        ("(" * 100_000, Fate.COMPILE_ERROR),
        ("raise ValueError('no')", Fate.RUNTIME_ERROR),
        ("import os; os.abort()", Fate.RUNTIME_ERROR),
        ("import sys; sys.exit(3)", Fate.RUNTIME_ERROR),
        ("x = [0] * 10**10", Fate.MEMORY),
    ],
)
def test_the_fate_of_a_program_is_named(run: Callable[..., Ran], source: str, fate: Fate) -> None:
    assert run(source).fate is fate


@needs_sandbox
def test_input_and_output_pass_as_they_are(run: Callable[..., Ran]) -> None:
    ran = run("import sys; sys.stdout.write(sys.stdin.read())", stdin="3 4\n\n中文\r\n")
    assert ran.stdout == "3 4\n\n中文\r\n".encode()


@needs_sandbox
def test_the_traceback_names_the_program(run: Callable[..., Ran]) -> None:
    assert 'File "program.py", line 2' in run("x = 1\nraise ValueError('no')").stderr


def call(source: str, calls: list, name: str = "f") -> Ran:
    return run_program(source, {"function": name, "calls": calls}, "", limits=SMALL)


@needs_sandbox
def test_a_function_is_called_and_what_it_prints_is_no_reply() -> None:
    ran = call("def f(a, b):\n    print('noise')\n    return [a + b]", [[1, 2], ["x", "y"]])
    assert (ran.fate, ran.stdout) == (Fate.DONE, b'[3]\n["xy"]\n')


@needs_sandbox
def test_a_method_of_solution_serves_as_well() -> None:
    assert call("class Solution:\n    def f(self, a): return a", [[7]]).stdout == b"7\n"


@needs_sandbox
def test_a_program_without_the_function_is_told_so() -> None:
    assert call("def g(): pass", [[]]).fate is Fate.NO_FUNCTION
    assert call("f = 3", [[]]).fate is Fate.NO_FUNCTION


@needs_sandbox
def test_replies_before_a_crash_are_kept() -> None:
    ran = call("def f(a): return 1 // a", [[1], [0], [1]])
    assert (ran.fate, ran.stdout) == (Fate.RUNTIME_ERROR, b"1\n")


@needs_sandbox
def test_the_sandbox_holds_here() -> None:
    assert proof.fault() is None


def test_without_bubblewrap_the_reward_refuses_and_names_the_remedy(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(R1Error, match=r"bwrap.* not found.*no code of a model is run; `megatron-r1 doctor"):
        Code().build()


@needs_sandbox
def test_a_sandbox_that_leaks_is_refused_in_words(monkeypatch) -> None:
    monkeypatch.setattr(proof, "PROBE", 'print(\'{"it has no network": false, "it is fine": true}\')')
    proof.fault.cache_clear()
    try:
        with pytest.raises(R1Error, match=r"does not hold .* \(not true in it: it has no network\)"):
            proof.require_sandbox()
    finally:
        proof.fault.cache_clear()


@needs_sandbox
def test_a_bubblewrap_that_the_kernel_refuses_is_no_verdict_on_the_program(monkeypatch) -> None:
    monkeypatch.setattr(command, "_bubblewrap", lambda: ("/usr/bin/bwrap", "--no-such-option"))
    ran = run_program("print(1)", {"function": None}, "", limits=SMALL)
    assert (ran.fate, ran.stdout) == (Fate.NOT_RUN, b"")
    assert "no-such-option" in ran.stderr


def _runs_the_driver(process: psutil.Process) -> bool:
    try:
        return process.name().startswith("python") and "/driver.py" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def programs_of(pid: int) -> list[psutil.Process]:
    """Those in a process's sandboxes, once there are any."""
    inside: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while not inside and time.monotonic() < deadline:
        children = psutil.Process(pid).children(recursive=True)
        inside = [p for p in children if _runs_the_driver(p)]
        time.sleep(0.02)
    assert inside
    return inside


@needs_sandbox
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("whom", [slice(None), slice(-1, None)], ids=["all", "the program"])
def test_a_signal_to_all_processes_of_a_job_costs_no_verdict(
    run: Callable[..., Ran], signum: int, whom: slice
) -> None:
    with ThreadPoolExecutor(1) as thread:
        ran = thread.submit(run, "import time; time.sleep(0.3); print('done')")
        programs_of(os.getpid())
        for process in psutil.Process().children(recursive=True)[whom]:
            with contextlib.suppress(psutil.NoSuchProcess):  # one before it may have taken it along
                process.send_signal(signum)
        assert (ran.result().fate, ran.result().stdout) == (Fate.DONE, b"done\n")


@needs_sandbox
def test_a_program_can_end_its_own_processes(run: Callable[..., Ran]) -> None:
    """As multiprocessing's pools do: signals are not ignored for the whole sandbox."""
    source = "import subprocess as s; p = s.Popen(['/usr/bin/sleep', '30']); p.terminate(); print(p.wait(5))"
    assert run(source).stdout == b"-15\n"


@needs_sandbox
@pytest.mark.slow
def test_a_killed_parent_takes_its_sandboxes_along() -> None:
    source = (
        "from megatron_r1.rewards.coding.sandbox.run import run_program\n"
        "from megatron_r1.rewards.coding.sandbox.limits import Limits\n"
        "run_program('import time; time.sleep(600)', {'function': None}, '', limits=Limits(wall_s=600))"
    )
    parent = subprocess.Popen([sys.executable, "-c", source])
    inside = programs_of(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert not psutil.wait_procs(inside, timeout=10)[1]
    if (where := cgroup.lent()) is not None:
        cgroup._remove_left_behind(where.parent)


def test_a_system_call_is_refused_allowed_or_fatal_as_listed() -> None:
    architecture, refused = seccomp.MACHINES[platform.machine()]
    listed = {*refused.values(), *seccomp.RULED[platform.machine()].values()}
    assert verdict(architecture, 0) == seccomp.ALLOW
    assert {verdict(architecture, number) for number in refused.values()} == {seccomp.REFUSE}
    neighbours = {n + d for n in listed for d in (-1, 1)} - listed
    assert {verdict(architecture, number) for number in neighbours} == {seccomp.ALLOW}
    assert verdict(architecture, seccomp.NEWER) == verdict(architecture, 500) == seccomp.ABSENT
    assert verdict(architecture, seccomp.X32_BIT | 1) == seccomp.REFUSE
    assert verdict(architecture ^ 1, 0) == seccomp.KILL


def test_both_machines_list_the_same_calls() -> None:
    """aarch64 never had the older ones."""
    (_, x86), (_, arm) = seccomp.MACHINES["x86_64"], seccomp.MACHINES["aarch64"]
    old = {
        "inotify_init", "uselib", "modify_ldt", "iopl", "ioperm", "ustat", "sysfs", "create_module",
        "get_kernel_syms", "query_module",
    }  # fmt: skip
    assert set(x86) - set(arm) == old
    assert set(arm) <= set(x86)
    assert set(seccomp.RULED["x86_64"]) == set(seccomp.RULED["aarch64"])


@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("socket", (socket.AF_UNIX, socket.SOCK_STREAM), seccomp.ALLOW),
        ("socket", (socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC), seccomp.ALLOW),
        ("socket", (socket.AF_UNIX, socket.SOCK_DGRAM), seccomp.REFUSE),
        *(("socket", (family, 1), seccomp.REFUSE) for family in range(46) if family != socket.AF_UNIX),
        ("socketpair", (socket.AF_UNIX, 1), seccomp.ALLOW),
        ("socketpair", (socket.AF_INET, 1), seccomp.REFUSE),
        ("setsockopt", (0, socket.SOL_SOCKET, socket.SO_REUSEADDR), seccomp.ALLOW),
        ("setsockopt", (0, socket.SOL_SOCKET, socket.SO_SNDBUF), seccomp.REFUSE),
        ("setsockopt", (0, 6, socket.SO_REUSEADDR), seccomp.REFUSE),
        ("fcntl", (0, 2), seccomp.ALLOW),
        ("fcntl", (0, 1031), seccomp.REFUSE),
        ("prctl", (15,), seccomp.ALLOW),
        ("prctl", (4,), seccomp.REFUSE),
        ("clone", (0x01200011,), seccomp.ALLOW),  # fork
        ("clone", (0x003D0F00,), seccomp.ALLOW),  # a thread
        *(("clone", (1 << bit | 17,), seccomp.REFUSE) for bit in (17, 25, 26, 27, 28, 29, 30)),
        ("clone3", (), seccomp.ABSENT),
    ],
)
def test_arguments_decide_where_they_have_to(call: str, arguments: tuple[int, ...], expected: int) -> None:
    number = seccomp.RULED[platform.machine()][call]
    assert verdict(seccomp.MACHINES[platform.machine()][0], number, *arguments) == expected


def verdict(architecture: int, number: int, *arguments: int) -> int:
    """What the filter answers, by the kernel's rules for these instructions."""
    lines = list(struct.iter_unpack("=HBBI", seccomp.program()))
    data = {seccomp.NUMBER: number, seccomp.ARCHITECTURE: architecture}
    data |= {seccomp.ARGUMENTS + 8 * i: value for i, value in enumerate((*arguments, 0, 0, 0, 0, 0, 0)[:6])}
    place = value = 0
    while True:
        code, if_true, if_false, constant = lines[place]
        place += 1
        if code == seccomp.RETURN:
            return constant
        if code == seccomp.LOAD:
            value = data[constant]
        elif code == seccomp.AND:
            value &= constant
        else:
            holds = {
                seccomp.JUMP_EQUAL: value == constant,
                seccomp.JUMP_AT_LEAST: value >= constant,
                seccomp.JUMP_BITS: bool(value & constant),
            }[code]
            place += if_true if holds else if_false


def test_check_can_say_what_is_missing_here(monkeypatch, tmp_path) -> None:
    assert Code().missing() is None or shutil.which("bwrap") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "bwrap" in (Code().missing() or "")
