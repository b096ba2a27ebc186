"""Texts through a reward model: which part of a response it reads, and how that becomes tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_r1.data.chat_template import ChatTemplate
from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.errors import DataError
from megatron_r1.rewards.preference import summary_of, whole_of
from megatron_r1.types import Completion, Document, Message, Scorer

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
    part: Part = "response"  # what of a response it learnt to score

    def ids(self, messages: Sequence[Message], text: str) -> list[int]:
        given, answer = self.template.document_ids(Document(tuple(messages), text), self.tokenizer)
        return given + answer

    def score(self, documents: Sequence[Document]) -> list[float | None]:
        """One number a document, None where its text has no tokens; collective, no document included."""
        sequences = [self._readable(document) for document in documents]
        found = iter(self.scorer.score([ids for ids in sequences if ids is not None]))
        return [None if ids is None else next(found) for ids in sequences]

    def score_completions(self, completions: Sequence[Completion]) -> list[float | None]:
        """Its part of each; None where there is none, or no tokens for it. Collective."""
        texts = [scored_part(completion.text, self.part) for completion in completions]
        asked = [
            Document(completion.prompt.messages, text, completion.prompt.language)
            for completion, text in zip(completions, texts, strict=True)
            if text is not None
        ]
        found = iter(self.score(asked))
        return [None if text is None else next(found) for text in texts]

    def _readable(self, document: Document) -> list[int] | None:
        try:
            return self.ids(document.messages, document.response)
        except DataError:  # a closed vocabulary decodes what no text encodes to
            return None
