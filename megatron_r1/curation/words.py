"""Word splitting for comparing texts: runs of letters or of digits, and every other visible character alone.

Han, kana and Thai have no spaces between words, so each of their characters is a word. Signs are words too:
otherwise "7 + 8" and "7 - 8" would be the same text.
"""

import re
from collections.abc import Iterator, Sequence

_UNSPACED = "\u0e00-\u0e7f\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|\d+|[^\w\s]|_")


def words(text: str) -> list[str]:
    """The text's words, case-folded."""
    return _WORD.findall(text.casefold())


def ngrams(items: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Every n consecutive items; none if there are fewer than n."""
    return (tuple(items[i : i + n]) for i in range(len(items) - n + 1))
