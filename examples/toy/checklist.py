"""Checklist reward: how much of what a prompt asks for the summary gives, by the prompt's own list.

    metadata: {"wanted": [["snow is white"], ["crow sings", "crow flies"]], "forbidden": ["first take parts"]}

A clause is what stands between commas and full stops. Of each entry of `wanted` one clause must be there;
every other clause costs a quarter of an entry, so that neither padding nor guessing pays. A clause of
`forbidden` anywhere in the response, its reasoning included, makes it 0. A prompt with neither list is
ungradable. It serves where the truth is known, as in a toy: in the place of a judge, or to watch a reward
model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_r1.rewards.base import RewardConfig
from megatron_r1.rewards.preference import summary_of
from megatron_r1.types import Completion, Score

EXTRA_COST = 0.25  # of an entry
_CLAUSE_END = re.compile(r"[,.;，。；]|</?[a-z]+>")


@dataclass(frozen=True, slots=True)
class ChecklistReward:
    def score(self, completions: Sequence[Completion]) -> list[Score]:
        return [_score(completion) for completion in completions]


def _score(completion: Completion) -> Score:
    metadata = completion.prompt.metadata
    wanted, forbidden = metadata.get("wanted", []), metadata.get("forbidden", [])
    if not wanted and not forbidden:
        return Score(None, 'prompt.metadata has neither "wanted" nor "forbidden"')
    if not (_is_list_of_lists(wanted) and _is_list_of_texts(forbidden)):
        return Score(None, '"wanted" must be a list of lists of clauses, "forbidden" a list of clauses')
    summary = summary_of(completion.text)
    said = set(clauses(completion.text))
    if any(clause in said for clause in forbidden):
        return Score(0.0, "a forbidden clause")
    if not wanted:
        return Score(1.0)
    return Score(0.0, "no summary") if summary is None else Score(covered(clauses(summary), wanted))


def covered(found: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """Share of the entries that are met, less a quarter for every clause that meets none; not below 0."""
    met: set[int] = set()
    extra = 0
    for clause in found:
        entry = next((i for i, one in enumerate(wanted) if i not in met and clause in one), None)
        if entry is None:
            extra += 1
        else:
            met.add(entry)
    return max(0.0, (len(met) - EXTRA_COST * extra) / len(wanted))


def clauses(text: str) -> list[str]:
    """The parts between signs and tags, with single spaces."""
    parts = (" ".join(part.split()) for part in _CLAUSE_END.split(text))
    return [part for part in parts if part]


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_list_of_lists(value: object) -> bool:
    return isinstance(value, list) and all(_is_list_of_texts(item) for item in value)


class Checklist(RewardConfig):
    """The share of a prompt's own checklist that the summary meets, 0 to 1; for data that brings the list."""

    def build(self) -> ChecklistReward:
        return ChecklistReward()


REWARD = Checklist
