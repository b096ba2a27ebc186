"""Splits a text at special pieces, longest piece first."""

import re
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=64)
def _splitter(pieces: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(pieces, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")" if pieces else "(?!)")


def split_special(text: str, pieces: Iterable[str]) -> list[str]:
    """The parts of a text: plain text at even positions, special pieces at odd ones."""
    return _splitter(tuple(pieces)).split(text)
