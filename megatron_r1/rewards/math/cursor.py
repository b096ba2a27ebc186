"""A place in a sequence of tokens: what stands there, and where the bracket that opens there closes."""

from collections.abc import Iterator, Sequence

from megatron_r1.rewards.math.expression import NotMathematics
from megatron_r1.rewards.math.tokens import Token

_OPENING, _CLOSING = ("(", "[", "{", "{|"), (")", "]", "}", "|}")


class Cursor:
    """Reads tokens from the left; `position` is the next one. source: the text that they are of."""

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
        """Where the bracket closes that has just been taken."""
        depth = 1
        for at in range(self.position, len(self.tokens)):
            depth += _step(self.tokens[at])
            if not depth:
                return at
        raise NotMathematics("a bracket that does not close")

    def take_group(self) -> Sequence[Token]:
        """The tokens in the bracket that has just been taken; the place is behind it then."""
        begin, end = self.position, self.closing()
        self.position = end + 1
        return self.tokens[begin:end]

    def text_of_group(self) -> str:
        """The same as text."""
        opened = self.before()
        self.position = self.closing() + 1
        return self.source[opened.end : self.before().start]


def outside_brackets(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    """The tokens, with their places, that stand outside all brackets and environments."""
    depth = 0
    for at, token in enumerate(tokens):
        depth += _step(token)
        if token.kind == "command" and token.text in ("begin", "end"):
            depth += 1 if token.text == "begin" else -1
        if depth <= 0:
            yield at, token


def split(tokens: Sequence[Token], signs: Sequence[str]) -> list[Sequence[Token]]:
    """The tokens between the signs that stand outside all brackets."""
    parts, begin = [], 0
    for at, token in outside_brackets(tokens):
        if token.kind == "sign" and token.text in signs:
            parts.append(tokens[begin:at])
            begin = at + 1
    return [*parts, tokens[begin:]]


def _step(token: Token) -> int:
    return (token.text in _OPENING) - (token.text in _CLOSING) if token.kind == "sign" else 0
