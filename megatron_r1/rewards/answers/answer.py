"""Where the chain of thought ends and what the final answer is.

The answer is looked for after </think> only, so that nothing tried out while thinking counts: the last
complete <answer>...</answer> that is not empty; without any answer tag the last balanced \\boxed{...} or
\\fbox{...} that is not empty (`\\boxed 5` is one too). Boxes joined by nothing but `and`, `or`, a comma or a
name (`\\boxed{3} and y = \\boxed{4}`) are one answer, `3, 4`. An answer that was opened and never closed is
no answer, and neither is one without tag or box: `#### 42` and `answer: 42` earn nothing there, since the
format asks for a mark.

A reference, and the content of an answer, may hold a whole solution: `bare_answer` takes from both alike the
last boxes, what follows the last `####` (GSM8K), or what follows a lead-in (`The answer is`, `答案是`).
All searches are linear in the text: a model under training writes megabytes of brackets.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_r1.data.chat_template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

BOX_WINDOW_CHARS = 20_000  # a box is looked for in this much of the end
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
MAX_LEAD_IN_CHARS = 20_000  # of a text in which one is looked for


@dataclass(frozen=True, slots=True)
class _Box:
    begin: int
    end: int
    content: str


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


def bare_answer(text: str) -> str:
    """The answer in a reference or an answer, by the same rules for both: see the module's docstring."""
    box = last_boxed(text)
    if box is not None:
        return box
    text = text.strip()
    if "####" in text and text.rpartition("####")[2].strip():
        return text.rpartition("####")[2].strip()
    lead_ins = list(_LEAD_IN.finditer(text)) if len(text) <= MAX_LEAD_IN_CHARS else []
    return text[lead_ins[-1].end() :].strip("* \t\r\n") if lead_ins else text


def unboxed(text: str) -> str:
    """The content of the last boxes if there are any, else the text; stripped."""
    box = last_boxed(text)
    return text.strip() if box is None else box


def last_boxed(text: str) -> str | None:
    """The content of the last box that is not empty, with those joined to it; "" if all are empty."""
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
    return ", ".join(dict.fromkeys(box.content for box in joined))  # said twice, it is one answer


def _boxes(text: str) -> Iterator[_Box]:
    """The balanced boxes; escaped braces don't count, and a box around another gives way to it."""
    open_braces: list[re.Match[str] | None] = []  # the box that a brace opens, None for another brace
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
    """What follows the chain of thought: all of a text without one, None where it never ends."""
    end = text.rfind(THINK_CLOSE)
    if end >= 0:
        return text[end + len(THINK_CLOSE) :]
    return None if THINK_OPEN in text else text  # still thinking, or never thought


def last_tagged(text: str) -> str | None:
    """The content of the last complete pair of answer tags that is not empty; None without any pair."""
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
