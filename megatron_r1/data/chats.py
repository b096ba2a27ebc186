"""Training sequences of a chat: every trained response follows exactly the prompt that sampling would give.

If the template shows earlier responses in full, a chat is one sequence. If it drops their reasoning, as
DeepSeek's does, a response inside a longer chat would be trained without its reasoning; so each response
becomes a sequence of its own.
"""

from typing import Literal

import torch

from megatron_r1.data.chat_template import ChatTemplate
from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.types import Document, TrainSequence

LearntAnswers = Literal["every", "last"]


def chat_sequences(
    document: Document, template: ChatTemplate, tokenizer: Tokenizer, *, answers: LearntAnswers = "last"
) -> list[TrainSequence]:
    """Sequences with weight 1 on every token of a trained response, EOS included, and 0 elsewhere."""
    chats = [document]
    if answers == "every":
        turns = document.messages
        earlier = [i for i, message in enumerate(turns) if message.role == "assistant"]
        chats = [*(Document(turns[:i], turns[i].content, document.language) for i in earlier), document]
    merged: list[_Chat] = []
    for chat in chats:
        given, learnt = template.document_ids(chat, tokenizer)
        if not (merged and merged[-1].goes_on(given, learnt)):
            merged.append(_Chat([*given, *learnt], [False] * len(given) + [True] * len(learnt)))
    return [chat.sequence() for chat in merged]


class _Chat:
    def __init__(self, ids: list[int], learnt: list[bool]) -> None:
        self.ids, self.learnt = ids, learnt

    def goes_on(self, given: list[int], learnt: list[int]) -> bool:
        """Append the next response if its prompt begins with this chat; returns whether it does."""
        length = len(self.ids)
        if given[:length] != self.ids:
            return False
        self.ids = [*given, *learnt]
        self.learnt += [False] * (len(given) - length) + [True] * len(learnt)
        return True

    def sequence(self) -> TrainSequence:
        weights = torch.tensor(self.learnt, dtype=torch.float32)
        weights[0] = 0.0  # nothing predicts the first token
        return TrainSequence(torch.tensor(self.ids, dtype=torch.long), weights)
