"""What a data source is: numbered prompts or documents, each a pure function of (seed, index).

So the data cursor of a run is one integer, resuming needs no state, and any replica can take any item.
"""

from typing import Protocol

from megatron_r1.data.split import Split
from megatron_r1.types import Document, Prompt


class Source(Protocol):
    """Numbered items. A source that lacks one of the two forms raises DataError and says so."""

    @property
    def size(self) -> int | None:
        """Items in one epoch; an index beyond begins the next. None: endless."""
        ...

    def prompt(self, index: int) -> Prompt:
        """The question at an index."""
        ...

    def document(self, index: int) -> Document:
        """The text to learn from at an index."""
        ...


class SourceConfig(Protocol):
    """The section of a source's file, exported there as SOURCE.

    One that reads files has a method `input_files() -> list[Path]` too, so that a run notices when they
    change (lineage.py).
    """

    @property
    def weight(self) -> float:
        """Share in a mixture, relative to the other weights."""
        ...

    def build(self, seed: int, *, split: Split = "train") -> Source:
        """The source itself: only problems of that side of the split, in the order that the seed gives."""
        ...
