"""Source of the data that an earlier stage of the run wrote: `{source: stage, stage: rejection}`.

The files have jsonl.py's form, so that another run can read them as `source: jsonl`. As a document, a line is
prompt and response; as a prompt, for another round of sampling or RL, the response is left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, PrivateAttr

from megatron_r1.data.source import Source
from megatron_r1.data.sources.jsonl import Jsonl, JsonlSource
from megatron_r1.data.split import Split
from megatron_r1.errors import DataError
from megatron_r1.files.run_directory import DATA
from megatron_r1.section import Section
from megatron_r1.types import Document, Prompt


class StageOutput(Section):
    """The data that an earlier stage wrote."""

    source: Literal["stage"] = "stage"
    weight: float = Field(default=1.0, gt=0, le=1e15)
    """Share in a mixture, relative to the other sources."""
    stage: str
    """The earlier stage's name; its kind must write data, such as rejection_sampling."""
    shuffle: bool = True
    """Shuffle the lines anew every epoch."""
    held_out: Literal["none", "tenth"] = "none"
    """What is held out from training: nothing, or the lines of one prompt in ten (by a hash)."""

    _run_dir: Path | None = PrivateAttr(default=None)

    def find_in(self, run_dir: Path) -> None:
        """Set the run directory; the chain calls this before a stage begins."""
        self._run_dir = run_dir

    def input_files(self) -> list[Path]:
        folder = None if self._run_dir is None else self._run_dir / self.stage / DATA
        found = folder.rglob("*") if folder is not None and folder.is_dir() else ()
        return sorted(path for path in found if path.is_file())

    def build(self, seed: int, *, split: Split = "train") -> Source:
        assert self._run_dir is not None, "the chain calls find_in first"
        folder = self._run_dir / self.stage / DATA
        if not folder.is_dir():
            raise DataError(f"{folder}: stage {self.stage} made no data; name one that does")
        lines = Jsonl(path=str(folder), shuffle=self.shuffle, held_out=self.held_out)
        return StageSource(JsonlSource(lines, seed=seed, split=split))


SOURCE = StageOutput


class StageSource:
    """The lines of an earlier stage's files, as prompts or documents."""

    def __init__(self, lines: JsonlSource) -> None:
        self._lines = lines
        self.size = lines.size

    def prompt(self, index: int) -> Prompt:
        return self._lines.question(index)

    def document(self, index: int) -> Document:
        return self._lines.document(index)


def stage_outputs(value: Any) -> Iterator[StageOutput]:
    """Every source of this kind in a section, at any depth."""
    if isinstance(value, StageOutput):
        yield value
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from stage_outputs(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from stage_outputs(inner)
