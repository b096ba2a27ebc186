"""Grading of an answer to a reasoning-gym problem, by verifiers.py or by the library's scorer at score 1.

The library's partial credit ("the answer is -4" scores 0.125) would teach the model to hedge, so it counts as
wrong. Runs in a grading process, which may be killed at a timeout.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from megatron_r1.gym.problems import settings
from megatron_r1.gym.verifiers import FORMS, UNANSWERED, VERIFIERS

Entry = Mapping[str, Any]


class UnknownFamily(LookupError):
    """reasoning-gym has no family of that name."""


def is_right(family: str, options: Mapping[str, Any], entry: Entry, answer: str) -> bool:
    """Whether the answer is right. Raises UnknownFamily, and whatever the library's scorer raises."""
    if family in VERIFIERS:
        verifier, _ = VERIFIERS[family]
        return verifier(answer, entry)
    if family in FORMS and not FORMS[family].fullmatch(answer.strip()):
        return False
    return library_score(family, options, entry, answer) == 1


def needs_its_answer(family: str) -> bool:
    """Whether grading needs the library's own answer to be right."""
    return family not in UNANSWERED


def settled(family: str, entry: Entry) -> dict[str, Any]:
    """The entry, with an answer that is the same in every process where the library's own is not."""
    if family not in UNANSWERED:
        return dict(entry)
    return {**entry, "answer": UNANSWERED[family].format(**entry["metadata"])}


def library_score(family: str, options: Mapping[str, Any], entry: Entry, answer: str) -> float:
    """The score of the library's own scorer, built with the family's options."""
    return _scorer(family, json.dumps(options, sort_keys=True, default=str))(answer, dict(entry))


@lru_cache(maxsize=64)
def _scorer(family: str, options: str) -> Callable[..., float]:  # (answer, entry) -> score
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS:
        raise UnknownFamily(family)
    make, config = DATASETS[family]
    return make(config=config(**settings(family, json.loads(options)))).score_answer
