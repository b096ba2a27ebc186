"""R1-Zero's template (DeepSeek-R1, 2501.12948, table 1)."""

from megatron_r1.data.chat_jinja import JinjaParts
from megatron_r1.data.chat_template import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    TAGS,
    THINK_CLOSE,
    THINK_OPEN,
    TurnStyle,
)
from megatron_r1.data.tokenizers.tokenizer import Tokenizer

R1_ZERO_PREAMBLE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
    f"answer. The reasoning process and answer are enclosed within {THINK_OPEN} {THINK_CLOSE} and "
    f"{ANSWER_OPEN} {ANSWER_CLOSE} tags, respectively, i.e., {THINK_OPEN} reasoning process here "
    f"{THINK_CLOSE} {ANSWER_OPEN} answer here {ANSWER_CLOSE}."
)


class R1Zero(TurnStyle):
    """The plain-text template of R1-Zero: it needs no special piece, so any base model can start from it."""

    think_prefix = f" {THINK_OPEN}"
    parts = JinjaParts(opening=R1_ZERO_PREAMBLE, system=" ", user=" User: ", after=".", cue=" Assistant:")

    def opening(self, system: str | None, tokenizer: Tokenizer) -> list[int]:
        ids = tokenizer.encode(R1_ZERO_PREAMBLE, special=TAGS)
        return ids if system is None else ids + tokenizer.encode(f" {system}", special=())

    def user(self, content: str, tokenizer: Tokenizer) -> list[int]:
        return tokenizer.encode(f" User: {content}. Assistant:", special=())


TEMPLATE = R1Zero
