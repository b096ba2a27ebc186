"""Format reward: whether the response has the form that the template asks for (DeepSeek-R1, section 2.2.2).

answer_tags, for R1-Zero: 1 if the response is <think>...</think><answer>...</answer> with only white space
between and around, each tag once, both parts visible, and the completion finished; otherwise 0.
summary, for R1: <think>...</think>, then a summary with at most one pair of answer tags.

A part is visible if it contains a letter, digit, punctuation mark or symbol. White space, control and format
characters (zero-width, bidirectional, tags, soft hyphens), accents without a letter, private and unassigned
characters are not visible, and neither are the few letters and symbols that are drawn blank.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_r1.data.chat_template import ANSWER_CLOSE, ANSWER_OPEN, TAGS, THINK_CLOSE, THINK_OPEN
from megatron_r1.rewards.base import RewardConfig
from megatron_r1.types import Completion, Score

Form = Literal["answer_tags", "summary"]

_SEEN = frozenset("LNPS")  # Unicode categories: letters, numbers, punctuation, symbols
# Hangul fillers, blank Braille, object replacement, null notehead, hieroglyph blanks
BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufffc\U0001d159\U00013441\U00013442")


def is_visible(text: str) -> bool:
    """Whether the text contains a visible character."""
    return any(c not in BLANKS and unicodedata.category(c)[0] in _SEEN for c in text)


def is_well_formed(text: str, form: Form = "answer_tags") -> bool:
    """Whether the text is a visible chain of thought followed by a visible answer, in this form."""
    return _is_summarised(text) if form == "summary" else _is_tagged(text)


def _is_summarised(text: str) -> bool:
    if text.count(THINK_OPEN) != 1 or text.count(THINK_CLOSE) != 1:
        return False
    before, _, rest = text.partition(THINK_OPEN)
    chain, closed, summary = rest.partition(THINK_CLOSE)
    if ANSWER_OPEN in chain or ANSWER_CLOSE in chain:
        return False
    return bool(closed) and not before.strip() and is_visible(chain) and _is_summary(summary)


def _is_summary(text: str) -> bool:
    """Whether it is visible, and has no answer tags or one pair around a visible answer."""
    if ANSWER_OPEN not in text and ANSWER_CLOSE not in text:
        return is_visible(text)
    if text.count(ANSWER_OPEN) != 1 or text.count(ANSWER_CLOSE) != 1:
        return False
    answer, closed, _ = text.partition(ANSWER_OPEN)[2].partition(ANSWER_CLOSE)
    return bool(closed) and is_visible(answer)


def _is_tagged(text: str) -> bool:
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    before, text = text.split(THINK_OPEN)
    chain, _, rest = text.partition(THINK_CLOSE)
    between, _, rest = rest.partition(ANSWER_OPEN)
    answer, closed, after = rest.partition(ANSWER_CLOSE)
    outside = before + between + after
    return bool(closed) and not outside.strip() and is_visible(chain) and is_visible(answer)


_SHAPES: dict[Form, str] = {
    "answer_tags": "<think>...<answer>...",
    "summary": "<think>...</think> and a summary",
}


@dataclass(frozen=True, slots=True)
class FormatReward:
    form: Form = "answer_tags"

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        return [self._score(completion) for completion in completions]

    def _score(self, completion: Completion) -> Score:
        if not completion.finished:
            return Score(0.0, "cut before its end")
        if is_well_formed(completion.text, self.form):
            return Score(1.0)
        return Score(0.0, f"not {_SHAPES[self.form]}")


class Format(RewardConfig):
    """Whether a response has the template's tags, each once and in order."""

    form: Form = "answer_tags"
    """answer_tags: reasoning, then the answer, each in its tags (R1-Zero). summary: reasoning in its tags,
    then a summary (R1)."""

    def build(self) -> FormatReward:
        return FormatReward(self.form)


REWARD = Format
