"""Programs a second in the sandbox of the code reward; one core: `taskset -c 1 python -m benchmarks.sandbox`.

The rate is by the CPU time of this process and of all that it started, which is what a quiet core would take;
the clock stands next to it.
"""

import contextlib
import ctypes
import os
import resource
import time
from collections.abc import Callable

from benchmarks.record import record
from megatron_r1.rewards.code import Code
from megatron_r1.rewards.coding.sandbox.limits import Limits
from megatron_r1.rewards.coding.sandbox.run import Fate, run_program
from megatron_r1.types import Completion, Message, Prompt

SUM = "print(sum(map(int, input().split())))"
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
TESTS = {"tests": [{"stdin": "3 4\n", "stdout": "7\n"}, {"stdin": "1 1\n", "stdout": "2\n"}]}


def completion(program: str) -> Completion:
    prompt = Prompt("p", (Message("user", "?"),), SUM, "code", "en", TESTS)
    return Completion(prompt, [1], [2], [0.0], f"```python\n{program}\n```", True, 0)


def plain(count: int) -> int:
    for _ in range(count):
        assert run_program(SUM, {"function": None}, "3 4\n", limits=Limits()).fate is Fate.DONE
    return count


def reward(count: int) -> int:
    """Programs of different text: equal ones run once. Two tests each."""
    scores = Code(num_workers=2).build().score([completion(f"{SUM} # {i}") for i in range(count // 2)])
    assert all(score.value == 1 for score in scores)
    return 2 * len(scores) + 2


def calls(count: int) -> int:
    """A function with eight calls a program."""
    for _ in range(count):
        request = {"function": "f", "calls": [[i] for i in range(8)]}
        assert run_program("def f(x): return x * x", request, "", limits=Limits()).fate is Fate.DONE
    return count


def adopt_orphans() -> None:
    """bubblewrap ends without waiting for its first process, whose CPU time would be counted nowhere."""
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def reap_orphans() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def cpu_s() -> float:
    reap_orphans()
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measured(name: str, run: Callable[[int], int], count: int) -> dict[str, object]:
    run(4)
    cpu, clock = cpu_s(), time.perf_counter()
    done = run(count)
    cpu, clock = cpu_s() - cpu, time.perf_counter() - clock
    return {
        "what": name,
        "programs": done,
        "programs_per_cpu_s": round(done / cpu, 1),
        "programs_per_wall_s": round(done / clock, 1),
    }


def main() -> None:
    adopt_orphans()
    rows = [
        measured("a program, one test", plain, 200),
        measured("the code reward, two tests a program, two workers", reward, 200),
        measured("a function, eight calls", calls, 200),
    ]
    record("sandbox", rows)


if __name__ == "__main__":
    main()
