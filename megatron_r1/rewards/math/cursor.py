"""Cursor over a sequence of tokens, with the search for matching brackets."""

from collections.abc import Iterator, Sequence

from megatron_r1.rewards.math.expression import NotMathematics
from megatron_r1.rewards.math.tokens import Token

_OPENING, _CLOSING = ("(", "[", "{", "{|"), (")", "]", "}", "|}")


class Cursor:
    """Reads tokens from the left; `position` is the next one. source: the text of the tokens."""

    def __init__(self, tokens: Sequence[Token], source: str) -> None:
        self.tokens = tokens
        self.source = source
        self.position = 0

    def peek(self, ahead: int = 0) -> Token | None:
        at = self.position + ahead
        return self.tokens[at] if at < len(self.tokens) else None

    def before(self) -> Token:
        return self.tokens[self.position - 1]

    def sign(self, *texts: str) -> bool:
        """Whether one of these signs is next."""
        token = self.peek()
        return token is not None and token.kind == "sign" and token.text in texts

    def take(self) -> Token:
        token = self.peek()
        if token is None:
            raise NotMathematics("it ends too early")
        self.position += 1
        return token

    def expect(self, text: str) -> None:
        if not self.sign(text):
            raise NotMathematics(f"no {text}")
        self.position += 1

    def closing(self) -> int:
        """The position of the bracket that closes the one just taken."""
        depth = 1
        for at in range(self.position, len(self.tokens)):
            depth += _step(self.tokens[at])
            if not depth:
                return at
        raise NotMathematics("a bracket that does not close")

    def take_group(self) -> Sequence[Token]:
        """The tokens inside the bracket just taken; moves behind the closing one."""
        begin, end = self.position, self.closing()
        self.position = end + 1
        return self.tokens[begin:end]

    def text_of_group(self) -> str:
        """As take_group, but returns the text."""
        opened = self.before()
        self.position = self.closing() + 1
        return self.source[opened.end : self.before().start]


def outside_brackets(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    """The tokens outside all brackets and environments, with their positions."""
    depth = 0
    for at, token in enumerate(tokens):
        depth += _step(token)
        if token.kind == "command" and token.text in ("begin", "end"):
            depth += 1 if token.text == "begin" else -1
        if depth <= 0:
            yield at, token


def split(tokens: Sequence[Token], signs: Sequence[str]) -> list[Sequence[Token]]:
    """The tokens split at those of the signs that are outside all brackets."""
    parts, begin = [], 0
    for at, token in outside_brackets(tokens):
        if token.kind == "sign" and token.text in signs:
            parts.append(tokens[begin:at])
            begin = at + 1
    return [*parts, tokens[begin:]]


def _step(token: Token) -> int:
    return (token.text in _OPENING) - (token.text in _CLOSING) if token.kind == "sign" else 0
