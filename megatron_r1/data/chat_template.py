"""Chat templates and reasoning tags: how a conversation becomes token ids.

A prompt never begins the response with <think>, since the format reward would then pay for what the model did
not write; `force_think` does so for evaluation, as the paper does. User and system text is encoded as plain
text, so that "<assistant>" in a user's text can't forge a turn. Such text is not refused, as real prompts do
mention tags; if a closed vocabulary can't spell it, the tokenizer raises DataError. An assistant's text may
contain the reasoning tags and no other special piece.
"""

from collections.abc import Sequence
from typing import Protocol

from megatron_r1.data.chat_jinja import JinjaParts, jinja_of
from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.errors import DataError
from megatron_r1.types import Document, Message

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
ANSWER_OPEN = "<answer>"
ANSWER_CLOSE = "</answer>"
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)

# DeepSeek-R1, table 1
R1_ZERO_PREAMBLE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
    f"answer. The reasoning process and answer are enclosed within {THINK_OPEN} {THINK_CLOSE} and "
    f"{ANSWER_OPEN} {ANSWER_CLOSE} tags, respectively, i.e., {THINK_OPEN} reasoning process here "
    f"{THINK_CLOSE} {ANSWER_OPEN} answer here {ANSWER_CLOSE}."
)


class TurnStyle(Protocol):
    """A format: the pieces that it needs and how it writes each turn."""

    required_pieces: tuple[str, ...]
    think_prefix: str  # the start of the response with force_think
    writes_bos: bool  # True: the format begins with BOS; False: it begins as the tokenizer begins any text
    parts: JinjaParts  # the same format for serving

    def opening(self, system: str | None, tokenizer: Tokenizer) -> list[int]:
        """Ids after BOS and before the first turn."""
        ...

    def user(self, content: str, tokenizer: Tokenizer) -> list[int]:
        """Ids of a user's turn, up to where the response begins."""
        ...

    def past_answer(self, content: str) -> str:
        """The part of an earlier response that is shown: some formats drop its reasoning."""
        ...


class R1Zero:
    """R1-Zero's plain-text template, for any base model, as it needs no special pieces."""

    required_pieces = ()
    think_prefix = f" {THINK_OPEN}"
    writes_bos = False
    parts = JinjaParts(opening=R1_ZERO_PREAMBLE, system=" ", user=" User: ", after=".", cue=" Assistant:")

    def opening(self, system: str | None, tokenizer: Tokenizer) -> list[int]:
        ids = tokenizer.encode(R1_ZERO_PREAMBLE, special=TAGS)
        return ids if system is None else ids + tokenizer.encode(f" {system}", special=())

    def user(self, content: str, tokenizer: Tokenizer) -> list[int]:
        return tokenizer.encode(f" User: {content}. Assistant:", special=())

    def past_answer(self, content: str) -> str:
        return content


class Minimal:
    """Only role pieces, for models trained from scratch: <bos><user> question <assistant>."""

    user_piece = "<user>"
    assistant_piece = "<assistant>"
    required_pieces = (user_piece, assistant_piece, *TAGS)
    think_prefix = THINK_OPEN
    writes_bos = False
    parts = JinjaParts(user=user_piece, after="", cue=assistant_piece, system=None)

    def opening(self, system: str | None, tokenizer: Tokenizer) -> list[int]:
        if system is not None:
            raise DataError(f"template minimal has no system turn, got {system[:80]!r}; use another template")
        return []

    def user(self, content: str, tokenizer: Tokenizer) -> list[int]:
        question = tokenizer.encode(content, special=())
        return [tokenizer.piece_id(self.user_piece), *question, tokenizer.piece_id(self.assistant_piece)]

    def past_answer(self, content: str) -> str:
        return content


class DeepSeek:
    """DeepSeek-V3's and R1's chat format; the reasoning of earlier turns is dropped, as in their release."""

    user_piece = "<｜User｜>"
    assistant_piece = "<｜Assistant｜>"
    required_pieces = (user_piece, assistant_piece)
    think_prefix = f"{THINK_OPEN}\n"
    writes_bos = True
    parts = JinjaParts(user=user_piece, after="", cue=assistant_piece, reasoning_ends=THINK_CLOSE)

    def opening(self, system: str | None, tokenizer: Tokenizer) -> list[int]:
        return [] if system is None else tokenizer.encode(system, special=())

    def user(self, content: str, tokenizer: Tokenizer) -> list[int]:
        question = tokenizer.encode(content, special=())
        return [tokenizer.piece_id(self.user_piece), *question, tokenizer.piece_id(self.assistant_piece)]

    def past_answer(self, content: str) -> str:
        return content.rsplit(THINK_CLOSE, 1)[-1]


class ChatTemplate:
    """Turns conversations into ids: BOS, the opening, then user turns each followed by a response and EOS."""

    def __init__(self, name: str, style: TurnStyle) -> None:
        self.name = name
        self.required_pieces = style.required_pieces
        self._style = style

    def prompt_ids(
        self, messages: Sequence[Message], tokenizer: Tokenizer, *, force_think: bool = False
    ) -> list[int]:
        """Ids up to where the next response begins.

        messages: an optional system turn, then user and assistant alternating, the last one a user's.
        force_think: begin the response with the opening tag; for evaluation only.
        """
        system, turns = self._turns(messages)
        bos_id = self.bos_id(tokenizer)
        ids = [] if bos_id is None else [bos_id]
        ids += self._style.opening(system, tokenizer)
        for message in turns:
            if message.role == "user":
                ids += self._style.user(message.content, tokenizer)
            else:
                ids += self.response_ids(self._style.past_answer(message.content), tokenizer)
        if force_think:
            ids += tokenizer.encode(self._style.think_prefix, special=TAGS)
        return ids

    def bos_id(self, tokenizer: Tokenizer) -> int | None:
        """The id that begins a conversation; None if there is none."""
        return tokenizer.chat_bos_id if self._style.writes_bos else tokenizer.bos_id

    def jinja(self, *, bos: str | None, eos: str) -> str:
        """The template for `apply_chat_template`, with these pieces."""
        return jinja_of(self._style.parts, bos=bos, eos=eos)

    def response_ids(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """Ids of a complete response, with EOS."""
        return [*tokenizer.encode(text, special=TAGS), tokenizer.eos_id]

    def document_ids(self, document: Document, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """(prompt ids, response ids) of a document; a plain text's prompt is BOS, or empty without one."""
        if document.messages:
            given = self.prompt_ids(document.messages, tokenizer)
        else:
            given = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        return given, self.response_ids(document.response, tokenizer)

    def _turns(self, messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
        system = messages[0].content if messages and messages[0].role == "system" else None
        turns = messages if system is None else messages[1:]
        roles = [message.role for message in turns]
        expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]
        if roles != expected or len(roles) % 2 == 0:
            raise DataError(
                f"template {self.name}: turns must alternate and end with the user's, after at most one "
                f"system turn; got {', '.join(message.role for message in messages) or 'none'}"
            )
        return system, turns


TEMPLATES: dict[str, ChatTemplate] = {
    name: ChatTemplate(name, style)
    for name, style in {"r1_zero": R1Zero(), "minimal": Minimal(), "deepseek": DeepSeek()}.items()
}


def get_template(name: str) -> ChatTemplate:
    """The template of that name; DataError for an unknown one lists the names."""
    if name not in TEMPLATES:
        raise DataError(f"template {name!r} is unknown; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
