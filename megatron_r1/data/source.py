"""Protocols of data sources: prompts or documents by index, each a pure function of (seed, index).

So a run's position in the data is one integer, and any data-parallel rank can take any item.
"""

from typing import Protocol

from megatron_r1.data.split import Split
from megatron_r1.types import Document, Prompt


class Source(Protocol):
    """Prompts or documents by index. A source that has only one of the two raises DataError for the other."""

    @property
    def size(self) -> int | None:
        """Items of one epoch, after which indices continue with the next. None: endless."""
        ...

    def prompt(self, index: int) -> Prompt:
        """The prompt at an index."""
        ...

    def document(self, index: int) -> Document:
        """The training text at an index."""
        ...


class SourceConfig(Protocol):
    """The YAML section of a source; its module exports it as SOURCE.

    A source that reads files also has a method `input_files() -> list[Path]`, by which a run detects that
    they have changed (run/lineage.py).
    """

    @property
    def weight(self) -> float:
        """Share in a mixture, relative to the other weights."""
        ...

    def build(self, seed: int, *, split: Split = "train") -> Source:
        """The source: only the items of that side of the split, in the seed's order."""
        ...
