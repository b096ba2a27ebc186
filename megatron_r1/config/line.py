"""Text that is written into a line of a script, a log or a path: it must not open another line.

Whatever ends a line for some reader counts: a newline in the name of a directory would become a line of the
job script that SLURM reads or bash runs.
"""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator

_BREAKING = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of surrogate pairs, line and paragraph ends


def is_one_line(text: str) -> bool:
    return not any(unicodedata.category(character) in _BREAKING for character in text)


def _one_line(text: str) -> str:
    if not text or not is_one_line(text):
        raise ValueError(f"must be one line without control characters, got {text!a}")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
