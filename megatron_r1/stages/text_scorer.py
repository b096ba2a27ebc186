"""Texts through a reward model: which part of a response it reads, and how that becomes tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_r1.data.template import ChatTemplate
from megatron_r1.data.tokenizer import Tokenizer
from megatron_r1.rewards.preference import summary_of, whole_of
from megatron_r1.types import Document, Message, Scorer

Part = Literal["summary", "response"]
PARTS: dict[Part, Callable[[str], str | None]] = {"summary": summary_of, "response": whole_of}


def scored_part(response: str, part: Part) -> str | None:
    """The text that is scored, as the rewards have it; None where there is none."""
    return PARTS[part](response)


@dataclass(frozen=True, slots=True)
class TextScorer:
    """rewards.preference.TextScorer: a Scorer with the template and tokenizer that it was trained with."""

    scorer: Scorer
    template: ChatTemplate
    tokenizer: Tokenizer

    def ids(self, messages: Sequence[Message], text: str) -> list[int]:
        given, answer = self.template.document_ids(Document(tuple(messages), text), self.tokenizer)
        return given + answer

    def score(self, documents: Sequence[Document]) -> list[float]:
        """One number a document; collective, none included."""
        return self.scorer.score([self.ids(d.messages, d.response) for d in documents])
