"""Preference data for reward models: pairs of responses, or single labelled ones.

They are prompts with the responses in their metadata, so that every source, mixture and held-out split works:

    a pair    {"messages": [...], "reference": "", "metadata": {"chosen": "...", "rejected": "..."}}
    a point   {"messages": [...], "reference": "", "metadata": {"response": "...", "label": 1}}   0: bad
"""

from dataclasses import dataclass
from typing import Any

from megatron_r1.errors import DataError
from megatron_r1.types import Prompt


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to a prompt, the chosen one preferred."""

    prompt: Prompt
    chosen: str
    rejected: str

    @property
    def responses(self) -> tuple[str, ...]:
        return self.chosen, self.rejected


@dataclass(frozen=True, slots=True)
class Point:
    """One response, labelled good or bad."""

    prompt: Prompt
    response: str
    good: bool

    @property
    def responses(self) -> tuple[str, ...]:
        return (self.response,)


def read_pair(prompt: Prompt) -> Pair:
    chosen, rejected = (_text(prompt, key) for key in ("chosen", "rejected"))
    if chosen == rejected:
        raise DataError(f"{_where(prompt)}: chosen and rejected are the same text; remove the line")
    return Pair(prompt, chosen, rejected)


def read_point(prompt: Prompt) -> Point:
    label = prompt.metadata.get("label")
    if label not in (0, 1):
        raise DataError(f'{_where(prompt)}: "label" must be 1 (good) or 0 (bad), not {label!r:.80}')
    return Point(prompt, _text(prompt, "response"), bool(label))


def _text(prompt: Prompt, key: str) -> str:
    value: Any = prompt.metadata.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f'{_where(prompt)}: metadata needs a non-empty "{key}", not {value!r:.80}')
    return value


def _where(prompt: Prompt) -> str:
    return f"preference {prompt.id} ({prompt.question[:60]!r})"
