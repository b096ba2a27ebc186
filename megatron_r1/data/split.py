"""Held-out split: a hash of a problem's content decides, so that it is the same in every run."""

import hashlib
from typing import Literal

Split = Literal["train", "held_out"]

HELD_OUT_EVERY = 10  # one problem in ten


def content_id(content: str) -> str:
    """The id of a problem: MD5 of its content, in hex."""
    return hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()


def split_of(problem_id: str) -> Split:
    """The side of a problem. Only the first 32 hex digits count, so that an id may have a suffix."""
    return "held_out" if int(problem_id[:32], 16) % HELD_OUT_EVERY == 0 else "train"
