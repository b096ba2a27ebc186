"""Trial of a reasoning-gym family before it is trained on: its scorer must reject wrong answers.

The trial takes a few items of a fixed seed, with the run's options, and milliseconds for most families. Most
of the family's own answers must be scored right, also after the entry went through JSON, and every wrong
answer (wrong_answers.py) wrong. Items that differ between processes can't be detected within one:
`python -m megatron_r1.gym` finds such families, which UNREPEATABLE lists.
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

# their items depend on PYTHONHASHSEED, so ranks and restarts would disagree
UNREPEATABLE = (
    "isomorphic_strings",
    "knight_swap",
    "polynomial_multiplication",
    "ransom_note",
    "word_ladder",
)
MIXTURES = ("composite",)

SEED, SIZE = 20_260, 64
# items whose own answer is scored; items that wrong answers are tried on; other items' answers for each
ITEMS, TRIED, OTHERS = 12, 5, 4


def refusal(family: str, options: Mapping[str, Any]) -> str | None:
    """Why the family must not be trained on, as the end of a sentence; None if it passes.

    Raises DataError if the family does not take the options.
    """
    if family in UNREPEATABLE:
        return "gives other problems in every process"
    if family in MIXTURES:
        return "mixes others; name them as sources of a mixture"
    return trial(family, json.dumps(options, sort_keys=True, default=str), SEED)


@lru_cache(maxsize=256)
def trial(family: str, options: str, seed: int) -> str | None:
    """The fault of the family's grading on the items of a seed, None if none is found. options: as JSON."""
    given = json.loads(options)
    problems = Problems(family, given, seed=seed, size=SIZE)
    entries = [problems[index] for index in range(ITEMS)]
    return fault_of(family, entries, lambda entry, answer: _is_paid(family, given, entry, answer))


def fault_of(family: str, entries: Sequence[Entry], pays: Scorer) -> str | None:
    """The fault of a scorer: which wrong answer it accepts, or that it rejects the items' own answers."""
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
    """Whether the item's own answer is scored right."""
    return isinstance(entry["answer"], str) and _is_paid(family, options, entry, entry["answer"])


def _own_fault(entry: Entry) -> str:
    if not isinstance(entry["answer"], str):
        return f"has no answer of its own to try (it is {json.dumps(entry['answer'])})"
    return f"does not score its own answer {entry['answer']!r:.60} right"


def _is_paid(family: str, options: Mapping[str, Any], entry: Entry, answer: str) -> bool:
    # A scorer that raises counts as scoring wrong, as it does in training. Which exceptions the library's
    # hundred scorers raise is not known, so all are caught.
    try:
        return is_right(family, options, deepcopy(entry), answer)
    except Exception:
        return False
