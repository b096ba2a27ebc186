"""The trial that a family of reasoning-gym passes before anybody is trained on it.

On a few items of a fixed seed, with the options that it is used with: most of the family's own answers must
be right, also after the entry went through JSON, and every wrong answer (wrong_answers.py) must be wrong. A
family that fails is refused in words that name what passed. It takes milliseconds for most families. What
can't be seen in one process, items that differ between processes, is UNREPEATABLE, and `python -m
megatron_r1.gym` finds it.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

from megatron_r1.gym.problems import Problems
from megatron_r1.gym.scoring import is_right
from megatron_r1.gym.wrong_answers import CANARY, wrong_answers

Entry = Mapping[str, Any]
Scorer = Callable[[Entry, str], bool]

# the same seed gave other items under another PYTHONHASHSEED, so ranks and restarts would disagree
UNREPEATABLE = (
    "isomorphic_strings",
    "knight_swap",
    "polynomial_multiplication",
    "ransom_note",
    "word_ladder",
)
MIXTURES = ("composite",)

SEED, SIZE = 20_260, 64
ITEMS, TRIED, OTHERS = 12, 5, 4  # asked for their own answer, on trial, and whose answers are tried on each


def refusal(family: str, options: Mapping[str, Any]) -> str | None:
    """Why nobody should be trained on the family, as the end of a sentence; None if it may be.

    DataError: it does not take the options.
    """
    if family in UNREPEATABLE:
        return "gives other problems in every process"
    if family in MIXTURES:
        return "mixes others; name them as sources of a mixture"
    return trial(family, json.dumps(options, sort_keys=True, default=str), SEED)


@lru_cache(maxsize=256)
def trial(family: str, options: str, seed: int) -> str | None:
    """What is wrong with how the family is graded, on the items of a seed. options: as JSON."""
    given = json.loads(options)
    problems = Problems(family, given, seed=seed, size=SIZE)
    entries = [problems[index] for index in range(ITEMS)]
    return fault_of(family, entries, lambda entry, answer: _is_paid(family, given, entry, answer))


def fault_of(family: str, entries: Sequence[Entry], pays: Scorer) -> str | None:
    """Which wrong answer, to the items that are right by their own, the scorer pays for."""
    sound = [entry for entry in entries if isinstance(entry["answer"], str) and pays(entry, entry["answer"])]
    if 2 * len(sound) < len(entries):
        return _own_fault(entries[0])
    for entry in sound[:TRIED]:
        others = [other for other in sound if other is not entry][:OTHERS]
        for kind, answer in wrong_answers(family, entry, others):
            paid = pays(entry, answer)
            if sys.__dict__.pop(CANARY, None):
                return "executes what a model answers"
            if paid:
                return f"scores a wrong answer right ({kind}: {answer!r:.80} for {entry['answer']!r:.60})"
    return None


def answers_itself(family: str, options: Mapping[str, Any], entry: Entry) -> bool:
    """Whether the item's own answer is right."""
    return isinstance(entry["answer"], str) and _is_paid(family, options, entry, entry["answer"])


def _own_fault(entry: Entry) -> str:
    if not isinstance(entry["answer"], str):
        return f"has no answer of its own to try (it is {json.dumps(entry['answer'])})"
    return f"does not score its own answer {entry['answer']!r:.60} right"


def _is_paid(family: str, options: Mapping[str, Any], entry: Entry, answer: str) -> bool:
    # A scorer that raises pays nothing: in training its verdict would be "failed", and the answer wrong. What
    # a hundred parsers of others raise is not known beforehand.
    try:
        return is_right(family, options, deepcopy(entry), answer)
    except Exception:
        return False
