"""What makes an answer right, by the task of its prompt.

A reader turns text into a value that can be compared with ==, or None; an answer is right when it reads as
the reference does. "math" and "gym:NAME" need the grading pool instead; see accuracy.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache

from megatron_r1.rewards import numerals

Reader = Callable[[str], Hashable | None]

READERS: dict[str, Reader] = {
    "integer": numerals.parse_integer,
    "number": numerals.parse_number,
    "choice": numerals.parse_choice,
    "exact": numerals.normal_text,
}


@lru_cache(maxsize=65_536)
def read_reference(task: str, reference: str) -> Hashable | None:
    """The value of a reference, kept: a group of samples asks for the same one."""
    return READERS[task](reference)
