"""Readability filters of sampled completions (DeepSeek-R1, sections 2.3.1 and 2.3.3).

R1 keeps completions that are right and read well: no mixed languages, long paragraphs or code blocks in the
chain of thought, no repetition, the right form. curation/verdict.py decides whether the answer is right.
"""

import re
from collections.abc import Iterator

from pydantic import Field

from megatron_r1.curation.words import ngrams, words
from megatron_r1.rewards.answers.answer import chain_of_thought
from megatron_r1.rewards.format import Form, is_well_formed
from megatron_r1.rewards.language import is_mixed, language_share
from megatron_r1.section import Section
from megatron_r1.types import Completion

UNREADABLE = ("\ufffd", "\u2047")  # what tokenizers write for broken bytes and unknown pieces
REPEATED_RUN = 8  # words; shorter n-grams repeat in ordinary mathematics too
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_CODE_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)


class Filters(Section):
    """Which completions are dropped, by their text. null or false turns a filter off."""

    form: Form | None = "answer_tags"
    """The form that a response must have; an unfinished response has none."""
    min_language: float | None = Field(default=None, gt=0, le=1)
    """Minimum share of the chain of thought's words in the prompt's language. Prompts in a language that has
    no script of its own are never kept."""
    mixed: bool = True
    """Drop chains of thought that mix languages."""
    max_paragraph: int | None = Field(default=None, ge=1)
    """Maximum number of characters in a paragraph of the chain of thought."""
    code_blocks: bool = True
    """Drop chains of thought with fenced code blocks."""
    max_repetition: float | None = Field(default=0.3, ge=0, lt=1)
    """Maximum share of a response's word 8-grams that repeat an earlier one."""
    min_tokens: int = Field(default=1, ge=1)
    """Minimum length of a completion, in tokens."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Maximum length of a completion, in tokens; null: as long as sampling allows."""

    def reason(self, completion: Completion) -> str | None:
        """Why a completion is dropped, in one word; None if it is kept."""
        return next(self._reasons(completion), None)

    def _reasons(self, completion: Completion) -> Iterator[str]:
        text, num_tokens = completion.text, len(completion.token_ids)
        chain, language = chain_of_thought(text), completion.prompt.language
        if not completion.finished:
            yield "cut"
        if any(sign in text for sign in UNREADABLE):
            yield "unreadable"
        if self.form is not None and not is_well_formed(text, self.form):
            yield "malformed"
        if num_tokens < self.min_tokens:
            yield "short"
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            yield "long"
        if self.mixed and is_mixed(chain):
            yield "mixed"
        if self.min_language is not None and not speaks(chain, language, at_least=self.min_language):
            yield "language"
        if self.code_blocks and has_code_block(chain):
            yield "code"
        if self.max_paragraph is not None and longest_paragraph(chain) > self.max_paragraph:
            yield "paragraph"
        if self.max_repetition is not None and repetition(text) > self.max_repetition:
            yield "repetition"


def speaks(chain: str, language: str, *, at_least: float) -> bool:
    """Whether at least this share of words is in the language; False without words or a script to tell by."""
    share = language_share(chain, language)
    return share is not None and share >= at_least


def has_code_block(text: str) -> bool:
    """Whether a line opens a fenced code block."""
    return _CODE_FENCE.search(text) is not None


def longest_paragraph(text: str) -> int:
    """Length of the longest paragraph, in characters; blank lines separate paragraphs."""
    return max(len(paragraph.strip()) for paragraph in _PARAGRAPH_END.split(text))


def repetition(text: str, *, run: int = REPEATED_RUN) -> float:
    """Share of the `run`-word n-grams that repeat an earlier one: 0 without repetition, near 1 in a loop."""
    seen: set[tuple[str, ...]] = set()
    total = repeated = 0
    for gram in ngrams(words(text), run):
        total += 1
        repeated += gram in seen
        seen.add(gram)
    return repeated / total if total else 0.0
