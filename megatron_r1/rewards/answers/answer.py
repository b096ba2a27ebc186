"""Splits a response into chain of thought and final answer.

Only text after </think> counts, not what was tried while thinking. The answer is the last complete
<answer>...</answer> that is not empty; without answer tags, the last balanced \\boxed{...} or \\fbox{...}
that is not empty (or `\\boxed 5`). Boxes joined only by `and`, `or`, a comma or a name (`\\boxed{3} and y =
\\boxed{4}`) are one answer, `3, 4`. An answer tag that is never closed gives no answer, and neither does text
without tag or box, such as `#### 42` or `answer: 42`: the format asks for a mark.

References and the contents of answers may be whole solutions. From both, `bare_answer` takes the last boxes,
the text after the last `####` (GSM8K), or the text after a lead-in (`The answer is`, `答案是`).
All searches are linear in the text, as a model under training may write megabytes of brackets.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_r1.data.chat_template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

BOX_WINDOW_CHARS = 20_000  # boxes are searched in so many characters at the end
_BRACE = re.compile(
    r"\\f?box(?:ed)?\s*(?:(?P<open>\{)|(?P<bare>-?[0-9][0-9.,/]*[0-9]|-?[0-9]|[A-Za-z](?![A-Za-z])))|\\.|[{}]",
    re.DOTALL,
)
_JOINT = re.compile(
    r"[\s$*.]*(?:\\[()\[\]])*[\s$]*(?:(?:,|;|&|、|，|和|或|and|or|\\(?:text|quad|qquad)\s*(?:\{\s*(?:and|or)?\s*\})?)[\s$]*)+"
    r"(?:\\[(\[])?[\s$]*(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*=)?[\s$]*"
)
_LEAD_IN = re.compile(
    r"(?:(?:^|[.,:;!?*\n]\s*|\b(?:the|my|our|final|correct)\s+)answer\**\s*(?:is\s*:?|:|=)|(?:答案|结果)\s*[是为：:]+)\**\s*(?=\S)",
    re.IGNORECASE,
)
MAX_LEAD_IN_CHARS = 20_000  # lead-ins are searched only in shorter texts


@dataclass(frozen=True, slots=True)
class _Box:
    begin: int
    end: int
    content: str


def chain_of_thought(text: str) -> str:
    """The text between the think tags; without one of them, from the beginning or to the end of the text."""
    start = text.find(THINK_OPEN)
    start = 0 if start < 0 else start + len(THINK_OPEN)
    end = text.find(THINK_CLOSE, start)
    return text[start:] if end < 0 else text[start:end]


def final_answer(text: str) -> str | None:
    """The answer of a response, stripped; None if there is none."""
    response = after_thinking(text)
    if response is None:
        return None
    if ANSWER_OPEN in response:
        inside = last_tagged(response)
        return None if inside is None else unboxed(inside)
    return last_boxed(response)


def bare_answer(text: str) -> str:
    """The answer in a reference or in the content of an answer: see the module's docstring."""
    box = last_boxed(text)
    if box is not None:
        return box
    text = text.strip()
    if "####" in text and text.rpartition("####")[2].strip():
        return text.rpartition("####")[2].strip()
    lead_ins = list(_LEAD_IN.finditer(text)) if len(text) <= MAX_LEAD_IN_CHARS else []
    return text[lead_ins[-1].end() :].strip("* \t\r\n") if lead_ins else text


def unboxed(text: str) -> str:
    """The content of the last boxes, or the text if it has none; stripped."""
    box = last_boxed(text)
    return text.strip() if box is None else box


def last_boxed(text: str) -> str | None:
    """The content of the last non-empty box and those joined to it; "" if all are empty, None without any."""
    text = text[-BOX_WINDOW_CHARS:]
    if "box" not in text:
        return None
    boxes = sorted(_boxes(text), key=lambda box: box.begin)
    full = [box for box in boxes if box.content]
    if not full:
        return "" if boxes else None
    joined = [full[-1]]
    for box in reversed(full[:-1]):
        if box.end <= joined[0].begin and _JOINT.fullmatch(text[box.end : joined[0].begin]):
            joined.insert(0, box)
        elif box.end <= joined[0].begin:
            break
    return ", ".join(dict.fromkeys(box.content for box in joined))  # a repeated answer counts once


def _boxes(text: str) -> Iterator[_Box]:
    """The balanced boxes; escaped braces don't count, and of nested boxes only the inner one does."""
    open_braces: list[re.Match[str] | None] = []  # the box that a brace opens; None if it opens no box
    innermost = -1
    for token in _BRACE.finditer(text):
        symbol = token.group()
        if symbol == "}":
            box = open_braces.pop() if open_braces else None
            if box is not None and box.start() > innermost:
                content = text[box.end() : token.start()].strip()
                innermost = box.start() if content else innermost
                yield _Box(box.start(), token.end(), content)
        elif symbol == "{":
            open_braces.append(None)
        elif token["open"]:
            open_braces.append(token)
        elif token["bare"]:
            innermost = token.start()
            yield _Box(token.start(), token.end(), token["bare"])


def after_thinking(text: str) -> str | None:
    """The text after the chain of thought: all of a text without one, None if it never ends."""
    end = text.rfind(THINK_CLOSE)
    if end >= 0:
        return text[end + len(THINK_CLOSE) :]
    return None if THINK_OPEN in text else text


def last_tagged(text: str) -> str | None:
    """The content of the last complete, non-empty pair of answer tags; None without any pair."""
    found = None
    end = len(text)
    while (close := text.rfind(ANSWER_CLOSE, 0, end)) >= 0:
        start = text.rfind(ANSWER_OPEN, 0, close)
        if start < 0:
            break
        begin = start + len(ANSWER_OPEN)
        content = text[begin : text.find(ANSWER_CLOSE, begin)]
        if content.strip():
            return content
        found, end = content if found is None else found, start
    return found
