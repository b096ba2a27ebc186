"""Worker process of the grading pool, in which sympy and reasoning-gym run.

It must stay light: no torch, no CUDA, no gloo, and at import no other module of the package. A request is a
pickle (kind, arguments) on standard input, the reply a line on standard output with the verdict. The kernel
enforces the limits, since Python handles no signal inside a long multiplication: RLIMIT_AS for memory, and
ITIMER_PROF, whose default action ends the process, for CPU time.
"""

import os
import pickle
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

READY, RIGHT, WRONG, UNREADABLE, FAILED = "ready", "right", "wrong", "unreadable", "failed"
IDLE_CHECK_S = 1.0

Grader = Callable[..., str]


def main() -> None:
    """Serve requests until the parent closes the pipe or dies. argv: CPU seconds per job, bytes of memory."""
    cpu_s, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    parent = os.getppid()
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library's prints must not be taken for a reply
    graders: dict[str, Grader] = {**_load_math(), "gym": _grade_gym}
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    requests = sys.stdin.buffer
    print(READY, file=replies)
    while _wait_for_request(requests, parent):
        kind, arguments = pickle.load(requests)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        verdict = _verdict(graders[kind], arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(verdict, file=replies)


def _verdict(grader: Grader, arguments: tuple[Any, ...]) -> str:
    # Which exceptions the libraries' hundred scorers raise on a model's text is not known, and a worker that
    # ended with each would take seconds to replace.
    try:
        return grader(*arguments)
    except Exception:
        return FAILED


def _wait_for_request(requests: BinaryIO, parent: int) -> bool:
    # Polls the parent, as another of its children may hold the pipe open: then there is no end of file.
    while os.getppid() == parent:
        if select.select([requests], [], [], IDLE_CHECK_S)[0]:
            return bool(requests.peek(1))  # pyright: ignore[reportAttributeAccessIssue]
    return False


def _load_math() -> dict[str, Grader]:
    from megatron_r1.rewards.math import algebra

    def grade(gold: Any, answer: Any) -> str:
        return RIGHT if algebra.equal_statements(gold, answer) else WRONG

    def read(gold: Any) -> str:
        return RIGHT if algebra.is_readable(gold) else UNREADABLE

    return {"math": grade, "math_reference": read}


def _grade_gym(family: str, options: Mapping[str, Any], entry: Mapping[str, Any], answer: str) -> str:
    from megatron_r1.gym.integrals import NotReadable
    from megatron_r1.gym.scoring import UnknownFamily, is_right

    try:
        return RIGHT if is_right(family, options, entry, answer) else WRONG
    except (UnknownFamily, NotReadable):
        return UNREADABLE


if __name__ == "__main__":
    main()
