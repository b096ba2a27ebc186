"""Chat templates and reasoning tags: how a conversation becomes token ids.

A prompt never begins the response with <think>, since the format reward would then pay for what the model did
not write; `force_think` does so for evaluation, as the paper does. User and system text is encoded as plain
text, so that "<assistant>" in a user's text can't forge a turn. Such text is not refused, as real prompts do
mention tags; if a closed vocabulary can't spell it, the tokenizer raises DataError. An assistant's text may
contain the reasoning tags and no other special piece.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import ClassVar

from megatron_r1 import registry
from megatron_r1.data.chat_jinja import JinjaParts, jinja_of
from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.errors import ConfigError, DataError
from megatron_r1.types import Document, Message

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
ANSWER_OPEN = "<answer>"
ANSWER_CLOSE = "</answer>"
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


class TurnStyle(ABC):
    """A chat template: the pieces it needs and how it writes each turn.

    A module of data/templates, or a plug-in, with `TEMPLATE = ItsClass` is one, named as its file.
    """

    required_pieces: ClassVar[tuple[str, ...]] = ()
    """Special pieces that the tokenizer must have."""
    think_prefix: ClassVar[str] = THINK_OPEN
    """What force_think puts at the start of the response."""
    writes_bos: ClassVar[bool] = False
    """Whether BOS is part of the format, or as the tokenizer begins any text."""
    parts: ClassVar[JinjaParts]
    """The same format for those who serve the model."""

    @abstractmethod
    def opening(self, system: str | None, tokenizer: Tokenizer) -> list[int]:
        """Ids after BOS and before the first turn. DataError: the template has no system turn."""

    @abstractmethod
    def user(self, content: str, tokenizer: Tokenizer) -> list[int]:
        """Ids of a user's turn, up to where the response begins."""

    def past_answer(self, content: str) -> str:
        """The part of an earlier response that is shown: some templates drop its reasoning."""
        return content


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


@cache
def templates() -> Mapping[str, ChatTemplate]:
    """All templates by name. ConfigError: a file's TEMPLATE is none."""
    return {name: ChatTemplate(name, _style_of(module)) for name, module in registry.templates().items()}


def _style_of(module: ModuleType) -> TurnStyle:
    style = vars(module)["TEMPLATE"]
    if not isinstance(style, type) or not issubclass(style, TurnStyle):
        raise ConfigError(f"{module.__file__}: TEMPLATE must be a class, derived from TurnStyle")
    missing = [name for name in (*sorted(style.__abstractmethods__), "parts") if not _has(style, name)]
    if missing:
        raise ConfigError(f"{module.__file__}: {style.__name__} lacks {', '.join(missing)}; add them")
    return style()


def _has(style: type[TurnStyle], name: str) -> bool:
    return hasattr(style, name) and name not in style.__abstractmethods__


def get_template(name: str) -> ChatTemplate:
    """The template of that name; DataError lists the names there are."""
    if name not in templates():
        raise DataError(f"template {name!r} is unknown; there are {', '.join(templates())}")
    return templates()[name]
