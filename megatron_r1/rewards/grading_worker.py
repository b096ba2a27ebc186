"""The process in which math-verify and reasoning-gym run: started and killed by grading_pool.

It must stay light: no torch, no CUDA, no gloo; and importing it imports no other module of the package. A
request is one pickle (kind, arguments) on standard input; the reply is one line on standard output, a
verdict. The kernel holds the limits, since Python gets no turn inside a long multiplication: RLIMIT_AS for
memory, and ITIMER_PROF, whose signal ends the process when an item has used up its CPU time.
"""

import logging
import os
import pickle
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, BinaryIO

READY, RIGHT, WRONG, UNREADABLE, FAILED = "ready", "right", "wrong", "unreadable", "failed"
IDLE_CHECK_S = 1.0

Grader = Callable[..., str]


def main() -> None:
    """Serve requests until the parent closes the pipe or dies. argv: CPU seconds an item, bytes of memory."""
    cpu_s, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    parent = os.getppid()
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not pass for a reply
    graders: dict[str, Grader] = {"math": _load_math(), "gym": _grade_gym}
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
    # The graders are a hundred parsers of others, fed with what a model makes up: what they raise is not
    # known beforehand, and a process that ended at each of it would cost seconds to replace.
    try:
        return grader(*arguments)
    except Exception:
        return FAILED


def _wait_for_request(requests: BinaryIO, parent: int) -> bool:
    # Another child of a dead parent may still hold the pipe open: then there is no end of file to see.
    while os.getppid() == parent:
        if select.select([requests], [], [], IDLE_CHECK_S)[0]:
            return bool(requests.peek(1))  # pyright: ignore[reportAttributeAccessIssue]
    return False


def _load_math() -> Grader:
    logging.disable(logging.WARNING)  # math-verify warns at every call without its own timeouts
    import sympy
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig()]

    def read(text: str) -> list[Any]:
        found = parse(f"${text}$", latex, fallback_mode="no_fallback", parsing_timeout=None)  # pyright: ignore
        return [_exact(expression, sympy) for expression in found]

    def grade(gold: str, answer: str) -> str:
        read_gold = read(gold)
        if not read_gold:
            return UNREADABLE
        read_answer = read(answer)
        if not read_answer or _constants_differ(read_gold[0], read_answer[0], sympy):
            return WRONG
        same = verify(
            read_gold, read_answer, numeric_precision=50, allow_set_relation_comp=True, timeout_seconds=None
        )
        return RIGHT if same else WRONG

    return grade


def _exact(expression: Any, sympy: Any) -> Any:
    """Decimals as the fractions that they are, so that nothing is rounded to six digits."""
    if not isinstance(expression, sympy.Basic):
        return expression
    return expression.xreplace({f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)})


def _constants_differ(gold: Any, answer: Any, sympy: Any) -> bool:
    """Whether both are finite constants and differ within 20 digits.

    math-verify drops a difference below its precision even between numbers that are smaller still, and
    simplifies for long before it calls two numbers different.
    """
    if not all(isinstance(e, sympy.Expr) and e.is_number and e.is_finite for e in (gold, answer)):
        return False
    difference, scale = (abs(sympy.N(e, 30, maxn=1000)) for e in (gold - answer, gold))
    return bool(difference > scale * sympy.Float("1e-20"))


def _grade_gym(name: str, entry: Mapping[str, Any], answer: str) -> str:
    scorer = _gym_scorer(name)
    if scorer is None:
        return UNREADABLE
    # Partial credit ("the answer is -4" earns 0.125) would teach the model to hedge.
    return RIGHT if scorer(answer, dict(entry)) == 1 else WRONG


@lru_cache
def _gym_scorer(name: str) -> Callable[..., float] | None:  # (answer, entry) -> score
    import reasoning_gym

    try:
        return reasoning_gym.get_score_answer_fn(name)
    except ValueError:  # not a family of reasoning-gym
        return None


if __name__ == "__main__":
    main()
