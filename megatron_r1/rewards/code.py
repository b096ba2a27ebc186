"""Code reward: 1 for a program that passes all tests of its problem (DeepSeek-R1, section 2.2.2).

rewards/coding/program_text.py finds the program in the response. It runs in a sandbox
(rewards/coding/sandbox) and its output is compared outside; the score's note says how it ended. Without
bubblewrap the reward refuses to run.

The tests are checked first. Tests that can't be read, or that the problem's own reference program fails, make
the completion ungradable, never right or wrong. Only this verdict and a hash of the problem are remembered,
as tests can take a megabyte.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Annotated

from pydantic import Field

from megatron_r1.errors import R1Error
from megatron_r1.rewards.base import RewardConfig
from megatron_r1.rewards.coding.problem import BadProblem, Problem, read_problem, same_output, same_value
from megatron_r1.rewards.coding.program_text import candidates
from megatron_r1.rewards.coding.sandbox.command import require_tools
from megatron_r1.rewards.coding.sandbox.limits import MIB, Limits
from megatron_r1.rewards.coding.sandbox.proof import require_sandbox
from megatron_r1.rewards.coding.sandbox.run import Fate, Ran, run_program
from megatron_r1.types import Completion, Prompt, Score

TASK = "code"
WRONG = "wrong output"
DETAIL_CHARS = 160  # of the last line on standard error


@dataclass(frozen=True, slots=True)
class Task:
    """A problem with its reference program. key: a hash of both."""

    key: bytes
    problem: Problem
    reference: str


@dataclass(frozen=True, slots=True)
class Job:
    """A program to grade. programs: the candidates in the response, of which the first that compiles runs."""

    task: Task
    programs: tuple[str, ...]

    @property
    def key(self) -> tuple[bytes, tuple[str, ...]]:
        return self.task.key, self.programs


@dataclass(frozen=True, slots=True)
class Result:
    """A program's result on the tests. fate: how the first failed test ended, "" if all passed."""

    passed: int
    total: int
    fate: str = ""
    detail: str = ""

    @property
    def note(self) -> str:
        tests = f"{self.passed} of {self.total} tests"
        return f"{self.fate}: {tests}{self.detail and f' ({self.detail})'}" if self.fate else tests


class CodeReward:
    """num_workers: sandboxes at a time. max_chars: a longer program counts as no program."""

    def __init__(self, *, limits: Limits, num_workers: int, partial_credit: bool, max_chars: int) -> None:
        self.limits, self.partial_credit, self.max_chars = limits, partial_credit, max_chars
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="sandbox")
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(num_workers):
            self._slots.put(slot)
        self._faults: dict[bytes, str | None] = {}  # by Task.key

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        """One score for each completion, in order; equal programs of a problem run once."""
        prompts = {id(c.prompt): c.prompt for c in completions}
        tasks = {key: _task(prompt) for key, prompt in prompts.items()}
        jobs = [self._job(completion, tasks[id(completion.prompt)]) for completion in completions]
        unique = {job.key: job for job in jobs if isinstance(job, Job)}
        self._judge_references(job.task for job in unique.values())
        results = dict(zip(unique, self._pool.map(self._grade, unique.values()), strict=True))
        return [results[job.key] if isinstance(job, Job) else job for job in jobs]

    def _job(self, completion: Completion, task: Task | Score) -> Score | Job:
        if isinstance(task, Score):
            return task
        programs = [p for p in candidates(completion.text) if len(p) <= self.max_chars]
        return Job(task, tuple(programs)) if programs else Score(0.0, "no program")

    def _judge_references(self, tasks: Iterable[Task]) -> None:
        """Run the reference programs: if one fails, the problem's tests are wrong."""
        unknown = {task.key: task for task in tasks if task.key not in self._faults}
        self._faults |= {key: None for key, task in unknown.items() if not task.reference}
        asked = {key: task for key, task in unknown.items() if task.reference}
        found = self._pool.map(self._run_reference, asked.values())
        for key, result in zip(asked, found, strict=True):
            if result.fate != Fate.NOT_RUN:  # the sandbox failed: try the reference again next time
                self._faults[key] = f"the reference program: {result.note}" if result.fate else None

    def _run_reference(self, task: Task) -> Result:
        """Run the reference program as it is, or the one in its fences."""
        return self._run_tests(task.problem, (task.reference, *candidates(task.reference)))

    def _grade(self, job: Job) -> Score:
        fault = self._faults.get(job.task.key, str(Fate.NOT_RUN))
        if fault is not None:
            return Score(None, fault)
        result = self._run_tests(job.task.problem, job.programs)
        if result.fate == Fate.NOT_RUN:
            return Score(None, result.note)
        value = result.passed / result.total if self.partial_credit else float(not result.fate)
        return Score(value, result.note)

    def _run_tests(self, problem: Problem, programs: tuple[str, ...]) -> Result:
        slot = self._slots.get()
        try:
            if problem.function:
                return self._run_calls(problem, programs, slot)
            return self._run_inputs(problem, programs, slot)
        finally:
            self._slots.put(slot)

    def _run_inputs(self, problem: Problem, programs: tuple[str, ...], slot: int) -> Result:
        """One sandbox per test; without partial credit, up to the first failure."""
        program, *alternatives = programs
        request = {"function": None, "alternatives": alternatives}
        total, passed, first = len(problem.given), 0, Result(0, 0)
        for stdin, expected in zip(problem.given, problem.expected, strict=True):
            limits = self._room_for(len(expected.encode("utf-8", "surrogatepass")))
            ran = run_program(program, request, stdin, limits=limits, slot=slot)
            if ran.fate is Fate.DONE and same_output(expected, ran.stdout, tolerance=problem.tolerance):
                passed += 1
                continue
            if not first.fate:
                first = _failure(ran)
            if not self.partial_credit or ran.fate in (Fate.COMPILE_ERROR, Fate.NOT_RUN):
                break
        return replace(first, passed=passed, total=total)

    def _run_calls(self, problem: Problem, programs: tuple[str, ...], slot: int) -> Result:
        """All calls in one sandbox, so that the program keeps its state between calls."""
        program, *alternatives = programs
        request = {"function": problem.function, "calls": problem.given, "alternatives": alternatives}
        limits = self._room_for(len(json.dumps(problem.expected)))
        ran = run_program(program, request, "", limits=limits, slot=slot)
        # a complete line counts as a reply, even if the program fails later
        replies = ran.stdout.split(b"\n")[:-1]
        right = [
            same_value(expected, reply, tolerance=problem.tolerance)
            for expected, reply in zip(problem.expected, replies, strict=False)
        ]
        total = len(problem.expected)
        if sum(right) == total and len(replies) == total:
            return Result(total, total)
        return replace(_failure(ran), passed=min(sum(right), total - 1), total=total)

    def _room_for(self, num_bytes: int) -> Limits:
        """The limits, with room for the expected output."""
        return replace(self.limits, output_bytes=self.limits.output_bytes + num_bytes)


def _task(prompt: Prompt) -> Task | Score:
    """The problem of a prompt, or an ungradable score that says why there is none."""
    if prompt.task != TASK:
        return Score(None, f"no tests for the task {prompt.task!r}; set tasks: [{TASK}]")
    try:
        problem = read_problem(prompt.metadata)
    except BadProblem as error:
        return Score(None, str(error))
    key = hashlib.sha256(repr((problem, prompt.reference)).encode("utf-8", "surrogatepass")).digest()
    return Task(key, problem, prompt.reference)


def _failure(ran: Ran) -> Result:
    fate = WRONG if ran.fate is Fate.DONE else str(ran.fate)
    last_line = (ran.stderr.strip().splitlines() or [""])[-1]
    return Result(0, 0, fate, last_line[:DETAIL_CHARS] if ran.fate is not Fate.DONE else "")


class Code(RewardConfig):
    """Whether the program in the response passes the prompt's tests, in a sandbox."""

    tasks: list[str] | None = Field(default=[TASK])
    """Tasks whose prompts this reward scores (patterns such as gym:*); null: all."""

    partial_credit: bool = False
    """The share of passed tests as the score, instead of 1 for all and 0 otherwise; R1: false."""

    cpu_s: Annotated[float, Field(gt=0, le=600)] = 4.0
    """CPU seconds of a program and its child processes on one test (for a function: on all tests)."""

    wall_s: Annotated[float, Field(gt=0, le=3600)] = 20.0
    """Wall-clock limit, for programs that sleep; far above cpu_s, as the machine may be busy."""

    memory_mib: Annotated[int, Field(ge=64, le=1 << 20)] = 512
    """Memory of a program and its child processes."""

    processes: Annotated[int, Field(ge=4, le=1024)] = 64
    """Processes and threads of a program."""

    disk_mib: Annotated[int, Field(ge=1, le=1 << 20)] = 32
    """Size of the program's own /tmp and /dev/shm."""

    files: Annotated[int, Field(ge=16, le=1 << 20)] = 1024
    """Files and directories in its /tmp and /dev/shm."""

    output_kib: Annotated[int, Field(ge=1, le=1 << 20)] = 1024
    """Standard output and error, beyond the length of the expected output."""

    num_workers: Annotated[int, Field(ge=1, le=1024)] = 2
    """Sandboxes at a time on each rank."""

    max_chars: Annotated[int, Field(gt=0)] = 100_000
    """A longer program counts as no program."""

    def missing(self) -> str | None:
        try:
            require_tools()
        except R1Error as error:
            return str(error)
        return None

    def build(self) -> CodeReward:
        require_sandbox()
        return CodeReward(
            limits=self.limits(),
            num_workers=self.num_workers,
            partial_credit=self.partial_credit,
            max_chars=self.max_chars,
        )

    def limits(self) -> Limits:
        return Limits(
            cpu_s=self.cpu_s,
            wall_s=self.wall_s,
            memory_bytes=self.memory_mib * MIB,
            processes=self.processes,
            disk_bytes=self.disk_mib * MIB,
            file_bytes=self.disk_mib * MIB,
            files=self.files,
            output_bytes=self.output_kib << 10,
        )


REWARD = Code
