"""Where the chain of thought ends and what the final answer is.

The answer is looked for after </think> only, so that nothing tried out while thinking counts:
the last complete <answer>...</answer> first; a \\boxed{...} inside it is unwrapped; without any answer
tag the last balanced \\boxed{...}. An answer that was opened and never closed is no answer.
All searches are linear in the text: a model under training writes megabytes of brackets.
"""

import re

from megatron_r1.data.template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

BOX_WINDOW_CHARS = 20_000  # a box is looked for in this much of the end
_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def chain_of_thought(text: str) -> str:
    """The text between the think tags; a missing tag stands at the end of the text where it belongs."""
    start = text.find(THINK_OPEN)
    start = 0 if start < 0 else start + len(THINK_OPEN)
    end = text.find(THINK_CLOSE, start)
    return text[start:] if end < 0 else text[start:end]


def final_answer(text: str) -> str | None:
    """The answer of a completion, stripped; None if there is none."""
    response = after_thinking(text)
    if response is None:
        return None
    if ANSWER_OPEN in response:
        inside = last_tagged(response)
        return None if inside is None else unboxed(inside)
    return last_boxed(response)


def unboxed(text: str) -> str:
    """The content of the last box if there is one, else the text; stripped."""
    box = last_boxed(text)
    return text.strip() if box is None else box


def last_boxed(text: str) -> str | None:
    """The content of the balanced \\boxed{...} that begins last, stripped; escaped braces don't count."""
    text = text[-BOX_WINDOW_CHARS:]
    open_braces: list[int | None] = []  # where a box's content begins, None for another brace
    last: tuple[int, int] | None = None
    for token in _BRACE.finditer(text):
        symbol = token.group()
        if symbol == "}":
            begin = open_braces.pop() if open_braces else None
            if begin is not None and (last is None or begin > last[0]):
                last = begin, token.start()
        elif symbol == "{":
            open_braces.append(None)
        elif symbol.startswith("\\boxed"):
            open_braces.append(token.end())
    return None if last is None else text[slice(*last)].strip()


def after_thinking(text: str) -> str | None:
    """What follows the chain of thought: all of a text without one, None where it never ends."""
    end = text.rfind(THINK_CLOSE)
    if end >= 0:
        return text[end + len(THINK_CLOSE) :]
    return None if THINK_OPEN in text else text  # still thinking, or never thought


def last_tagged(text: str) -> str | None:
    """The content of the last complete pair of answer tags; None if there is none."""
    last_close = text.rfind(ANSWER_CLOSE)
    start = text.rfind(ANSWER_OPEN, 0, max(last_close, 0))
    if start < 0:
        return None
    start += len(ANSWER_OPEN)
    return text[start : text.find(ANSWER_CLOSE, start)]
