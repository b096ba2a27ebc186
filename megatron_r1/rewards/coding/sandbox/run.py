"""Runs one program in one sandbox; returns its output and how it ended."""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from megatron_r1.rewards.coding.sandbox import cgroup, seccomp, watch
from megatron_r1.rewards.coding.sandbox.command import PATH, require_tools, sandboxed
from megatron_r1.rewards.coding.sandbox.limits import Limits

COMPILE_ERROR, NO_FUNCTION = 121, 122  # driver.py's exit codes
WATCH_EVERY_S = 0.02
START_LIMIT_S = 60.0  # for bubblewrap to build the sandbox; exceeding it is the machine's fault
STDERR_KEPT = 2000
JOB_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # SLURM sends them to all processes of a step
SEALED = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Fate(StrEnum):
    """How a program ended; the text is the score's note."""

    DONE = "done"
    COMPILE_ERROR = "compile error"
    NO_FUNCTION = "no such function"
    RUNTIME_ERROR = "runtime error"
    TIME_OUT = "time-out"
    MEMORY = "over the memory limit"
    PROCESSES = "over the limit of processes"
    OUTPUT = "over the output limit"
    NOT_RUN = "the sandbox did not start"  # the machine's fault, never the program's


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a run. stderr: only its end."""

    fate: Fate
    stdout: bytes
    stderr: str
    usage: watch.Usage


@dataclass(slots=True)
class _Sandbox:
    """A running sandbox. first_pid: 0 until bubblewrap names it; exit_code: None until the program ended."""

    process: subprocess.Popen[bytes]
    began: float
    group: cgroup.Group | None
    first_pid: int = 0
    looks: watch.Watch | None = None
    exit_code: int | None = None
    usage: watch.Usage = watch.NOTHING


def run_program(source: str, request: Mapping[str, Any], stdin: str, *, limits: Limits, slot: int = 0) -> Ran:
    """Run Python source; request: see driver.py. Raises R1Error if the sandbox can't be built.

    A program that was ended by a stop signal of the whole job runs once more: the signal says nothing about
    the program, and a resumed run must give the same score as an uninterrupted one.
    """
    require_tools()
    texts = (stdin, source, json.dumps(dict(request)))
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    ran, cut_short = _run(data, limits, slot)
    return _run(data, limits, slot)[0] if cut_short else ran


def _run(data: Sequence[bytes], limits: Limits, slot: int) -> tuple[Ran, bool]:
    """The result, and whether one of JOB_SIGNALS ended it. data: standard input, program and request."""
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(cgroup.group(limits))
        except OSError as error:
            return Ran(Fate.NOT_RUN, b"", f"no control group: {error}", watch.NOTHING), False
        given, program, asked = (stack.enter_context(_sealed(part)) for part in data)
        driver = stack.enter_context(_sealed(_driver()))
        filter_ = stack.enter_context(_sealed(seccomp.program()))
        status, status_out = os.pipe()
        stack.callback(os.close, status)
        command = sandboxed(
            limits,
            driver_fd=driver,
            program_fd=program,
            request_fd=asked,
            filter_fd=filter_,
            status_fd=status_out,
            slot=slot,
        )
        try:
            process = subprocess.Popen(
                [*(group.enter if group else ()), *command],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(driver, program, asked, filter_, status_out),
                start_new_session=True,  # Ctrl-C is the rank's to handle
                cwd="/",
                env={"PATH": PATH},
            )
        finally:
            os.close(status_out)
        sandbox = _Sandbox(process, time.monotonic(), group)
        try:
            ran = _supervise(sandbox, status, limits)
        finally:
            _end(sandbox)
        return ran, bool({-process.returncode, (sandbox.exit_code or 0) - 128} & {*JOB_SIGNALS})


@cache
def _driver() -> bytes:
    return Path(__file__).with_name("driver.py").read_bytes()


@contextlib.contextmanager
def _sealed(data: bytes) -> Iterator[int]:
    """The descriptor of an anonymous read-only file, sealed against changes, at its start."""
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALED)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _supervise(sandbox: _Sandbox, status: int, limits: Limits) -> Ran:
    assert sandbox.process.stdout is not None
    assert sandbox.process.stderr is not None
    pipes = {sandbox.process.stdout.fileno(): bytearray(), sandbox.process.stderr.fileno(): bytearray()}
    out, err = pipes.values()
    news = bytearray()
    fate: Fate | None = None
    with selectors.DefaultSelector() as selector:
        for descriptor in (*pipes, status):
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and fate is None:
            for key, _ in selector.select(WATCH_EVERY_S):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fd)
                (news if key.fd == status else pipes[key.fd]).extend(chunk)
            _read_status(sandbox, news, limits)
            if len(out) + len(err) > limits.output_bytes:
                fate = Fate.OUTPUT
            elif sandbox.exit_code is None:
                fate = _excess(sandbox, limits)
            elif time.monotonic() - sandbox.began > START_LIMIT_S + limits.wall_s:
                break  # a descendant that can't be killed holds the pipe
    return Ran(fate or _by_exit_code(sandbox, err), bytes(out), _tail(err), sandbox.usage)


def _read_status(sandbox: _Sandbox, news: bytearray, limits: Limits) -> None:
    """Read bubblewrap's status: the first process's id and, once it has ended, the exit code."""
    while b"\n" in news:
        line, _, rest = bytes(news).partition(b"\n")
        news[:] = rest
        event = json.loads(line)
        if "child-pid" in event:
            sandbox.first_pid, sandbox.began = event["child-pid"], time.monotonic()
            sandbox.looks = watch.Watch(sandbox.first_pid, limits, sandbox.group)
        if "exit-code" in event:
            sandbox.exit_code = event["exit-code"]


def _excess(sandbox: _Sandbox, limits: Limits) -> Fate | None:
    """The fate of a program that exceeds a limit; None if it doesn't."""
    elapsed_s = time.monotonic() - sandbox.began
    if sandbox.looks is None:
        return Fate.NOT_RUN if elapsed_s > START_LIMIT_S else None
    if elapsed_s > limits.wall_s:
        return Fate.TIME_OUT
    try:
        sandbox.usage = usage = sandbox.looks.look()
    except OSError:  # it has just ended, or is not built yet; the wall limit holds in any case
        return None
    if usage.cpu_s > limits.cpu_s:
        return Fate.TIME_OUT
    if usage.memory_bytes > limits.memory_bytes:
        return Fate.MEMORY
    return Fate.PROCESSES if usage.processes > limits.processes + watch.OWN else None


def _by_exit_code(sandbox: _Sandbox, err: bytearray) -> Fate:
    code = sandbox.exit_code
    if sandbox.group is not None and sandbox.group.ran_out_of_memory():
        return Fate.MEMORY
    if code is None:
        return Fate.NOT_RUN
    if code in (128 + signal.SIGXCPU, 128 + signal.SIGKILL):
        return Fate.TIME_OUT  # the kernel's own limit of CPU time
    if code == 1 and bytes(err).rstrip().endswith(b"MemoryError"):
        return Fate.MEMORY  # RLIMIT_AS, met by Python itself
    named = {0: Fate.DONE, COMPILE_ERROR: Fate.COMPILE_ERROR, NO_FUNCTION: Fate.NO_FUNCTION}
    return named.get(code, Fate.RUNTIME_ERROR)


def _tail(err: bytearray) -> str:
    return bytes(err[-STDERR_KEPT:]).decode("utf-8", "replace")


def _end(sandbox: _Sandbox) -> None:
    """Kill the sandbox: killing its first process ends the whole process namespace."""
    if sandbox.first_pid and sandbox.exit_code is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(sandbox.first_pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(sandbox.process.pid, signal.SIGKILL)
    sandbox.process.wait()
    for pipe in (sandbox.process.stdout, sandbox.process.stderr):
        if pipe is not None:
            pipe.close()
