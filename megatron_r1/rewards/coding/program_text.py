"""Finds the program in a response.

Code fences are read line by line, as in CommonMark: three or more backticks or tildes open a block; a line of
at least as many of the same, and nothing else, closes it. Tags and fences inside a block don't count, so a
program may contain "</think>", "</answer>" or "```" in a string.

    the answer    the text after </think>; of it the last non-empty <answer>...</answer>, if there is one
    the program   the answer's last block that is marked as Python (```python, ```py, ```Python3,
                  ```{.python}, ```python title="x"), otherwise the last without a mark, but never one in
                  another language. An <answer> without a block is a program as a whole.

If a line in a string looks like a closing fence, or several blocks have no mark, the text is ambiguous:
`candidates` returns all readings, best first, and the sandbox runs the first that compiles.
All searches are linear, except for the pairing of fences, of which only the last MAX_MARKS are read.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from megatron_r1.data.chat_template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

MAX_MARKS = 2000
MAX_CANDIDATES = 6
MAX_PAIRS = 50  # pairs of answer tags that are tried
CLOSING_INDENT = 3  # columns by which a closing fence may be indented more than its opening (CommonMark 4.5)
_TAGS = "|".join(map(re.escape, (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)))
_AFTER_TAG = "|".join(
    f"(?<={re.escape(tag)})" for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
)
_MARK = re.compile(
    rf"(?P<tag>{_TAGS})|"
    rf"(?:^|{_AFTER_TAG})(?P<indent>[ \t]*)(?P<fence>`{{3,}}|~{{3,}})(?P<info>[^\n`]*?)(?=\r?$|{_TAGS})",
    re.MULTILINE,
)
_LANGUAGE = re.compile(r"[{\s]*\.?(?:language-|lang-)?([\w+#./-]*)")
_PYTHON = re.compile(r"(?:i?python|py)[0-9.]*|.*\.py", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A tag or a line with a fence. fence: "" for a tag; info: the text after the fence on its line.

    closing: the index of the mark that closes this fence, None if none does.
    """

    index: int
    begin: int
    end: int
    tag: str
    indent: int
    fence: str
    info: str
    closing: int | None = None

    def closes(self, opening: "_Mark") -> bool:
        return (
            self.fence.startswith(opening.fence)
            and not self.info
            and self.indent <= opening.indent + CLOSING_INDENT
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """opening, closing: indices of its fences among the marks."""

    opening: int
    closing: int


def candidates(text: str) -> list[str]:
    """The possible programs of a response, the most likely first; empty if there is none."""
    marks = _marks(text)
    first = _first_of_answer(text, marks)
    if first is None:
        return []
    tags, blocks = _outside(marks, first)
    pairs = _answer_pairs(text, tags)
    if pairs:
        opening, closing = pairs[0]
        inside = [b for b in blocks if opening.begin < marks[b.opening].begin < closing.begin]
        if not inside:
            return _distinct(_bare(text[a.end : b.begin]) for a, b in pairs)
        blocks = inside
    return _distinct(_programs(text, marks, blocks))


def _marks(text: str) -> list[_Mark]:
    """The last MAX_MARKS marks, each fence with the index of the one that closes it."""
    found = deque(_MARK.finditer(text), maxlen=MAX_MARKS)
    marks: list[_Mark] = []  # from the last to the first
    closers: list[_Mark] = []
    for index, match in reversed([*enumerate(found)]):
        indent = len((match["indent"] or "").expandtabs(4))
        mark = _Mark(
            index,
            *match.span(),
            match["tag"] or "",
            indent,
            match["fence"] or "",
            (match["info"] or "").strip(),
        )
        if mark.fence:
            closer = next((c for c in reversed(closers) if c.closes(mark)), None)
            mark = replace(mark, closing=None if closer is None else closer.index)
        if mark.fence and not mark.info:
            closers.append(mark)
        marks.append(mark)
    return marks[::-1]


def _first_of_answer(text: str, marks: Sequence[_Mark]) -> int | None:
    """The index of the first mark after the chain of thought; None if that never ends.

    A </think> inside a block belongs to the program, unless another block opens before that block closes:
    then the chain of thought has left its block open. If no </think> is left, the last one counts after all.
    """
    first = at = 0
    while at < len(marks):
        closing = marks[at].closing
        end = at + 1 if closing is None else closing
        ends = [i for i in range(at, end) if marks[i].tag == THINK_CLOSE]
        ends = [i for i in ends if i == at or _opens_between(marks, i, end)]
        if ends:
            first = at = ends[-1] + 1
        else:
            at = end if closing is None else end + 1
    return first or _fallback(text, marks)


def _fallback(text: str, marks: Sequence[_Mark]) -> int | None:
    """The mark after the last </think> inside a block, when there is none outside."""
    before = text[: marks[0].begin] if marks else text
    opened = THINK_OPEN in before or any(tag.tag == THINK_OPEN for tag in _outside(marks, 0)[0])
    thinking = opened and THINK_CLOSE not in before
    last = max((i for i, mark in enumerate(marks) if mark.tag == THINK_CLOSE), default=None)
    if last is None:
        return None if thinking else 0
    return last + 1 if thinking or _outside(marks, last + 1)[1] else 0


def _opens_between(marks: Sequence[_Mark], begin: int, end: int) -> bool:
    return any(mark.fence and mark.info for mark in marks[begin:end])


def _outside(marks: Sequence[_Mark], first: int) -> tuple[list[_Mark], list[_Block]]:
    """The tags outside all blocks, and the blocks, except those cut by </answer> and a new block."""
    tags: list[_Mark] = []
    blocks: list[_Block] = []
    at = first
    while at < len(marks):
        closing = marks[at].closing
        if marks[at].tag:
            tags.append(marks[at])
        if closing is None or _cut_by_answer(marks, at, closing):
            at += 1
        else:
            blocks.append(_Block(at, closing))
            at = closing + 1
    return tags, blocks


def _cut_by_answer(marks: Sequence[_Mark], begin: int, end: int) -> bool:
    cut = next((i for i in range(begin, end) if marks[i].tag == ANSWER_CLOSE), None)
    return cut is not None and _opens_between(marks, cut, end)


def _answer_pairs(text: str, tags: Sequence[_Mark]) -> list[tuple[_Mark, _Mark]]:
    """The last non-empty pair of answer tags, then the pairs of other readings of the tags."""
    opens = [tag for tag in tags if tag.tag == ANSWER_OPEN]
    closes = [tag for tag in tags if tag.tag == ANSWER_CLOSE]
    pairs = ((a, b) for a in reversed(opens) for b in closes if a.end <= b.begin)
    full = ((a, b) for a, b in islice(pairs, MAX_PAIRS) if text[a.end : b.begin].strip())
    return list(islice(full, MAX_CANDIDATES))


def _programs(text: str, marks: Sequence[_Mark], blocks: Sequence[_Block]) -> Iterator[str]:
    """The last Python block, or the unmarked ones from the last; then the same with later closing fences."""
    python = [b for b in blocks if _is_python(marks[b.opening].info)]
    chosen = python[-1:] or [b for b in reversed(blocks) if not marks[b.opening].info]
    yield from (_content(text, marks, b) for b in chosen[: MAX_CANDIDATES // 2])
    for block in chosen[:1]:
        for later in range(block.closing + 1, len(marks)):
            if marks[later].fence and marks[later].closes(marks[block.opening]):
                yield _content(text, marks, _Block(block.opening, later))


def _is_python(info: str) -> bool:
    language = _LANGUAGE.match(info)
    return language is not None and _PYTHON.fullmatch(language[1]) is not None


def _content(text: str, marks: Sequence[_Mark], block: _Block) -> str:
    """The lines between the fences, without the indentation of the opening one."""
    opening = marks[block.opening]
    lines = text[opening.end : marks[block.closing].begin].partition("\n")[2]
    if opening.indent:
        lines = re.sub(rf"^[ \t]{{1,{opening.indent}}}", "", lines, flags=re.MULTILINE)
    return lines.removeprefix("\ufeff")


def _bare(text: str) -> str:
    """The program of an answer without a block; an unclosed fence is removed."""
    opening = _MARK.match(text.strip())
    if (
        opening is not None
        and opening["fence"]
        and (not opening["info"].strip() or _is_python(opening["info"]))
    ):
        text = text.strip()[opening.end() :]
    return text.strip()


def _distinct(programs: Iterator[str]) -> list[str]:
    return list(islice(dict.fromkeys(p for p in programs if p.strip()), MAX_CANDIDATES))
