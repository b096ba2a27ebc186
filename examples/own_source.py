"""Your own data source: which of two numbers is larger, as questions for RL and as text to learn from.

A source gives item `index` as a pure function of (seed, index): nothing has to be stored to resume, and any
replica can take any item. `split` keeps what is held out apart, by a hash of the problem.
"""

import random
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from megatron_r1.data.split import Split, content_id, split_of
from megatron_r1.section import Section
from megatron_r1.types import Document, Message, Prompt


class Larger(Section):
    """Which of two numbers is larger."""

    source: Literal["larger"] = "larger"  # its name in the YAML
    weight: float = Field(default=1.0, gt=0)
    """Share in a mixture, relative to the other sources."""
    highest: int = Field(default=20, ge=2)
    """The largest number."""

    def build(self, seed: int, *, split: Split = "train") -> "LargerSource":
        return LargerSource(self.highest, seed, split)


SOURCE = Larger


class LargerSource:
    size = None  # endless; a number: so many items are an epoch

    def __init__(self, highest: int, seed: int, split: Split) -> None:
        self.highest, self.seed, self.split = highest, seed, split

    def prompt(self, index: int) -> Prompt:
        """A question with its reference answer and the verifier (`task`) that grades it."""
        draws = random.Random(f"{self.seed}/{self.split}/{index}")
        while True:
            a, b = draws.sample(range(self.highest + 1), 2)
            problem = content_id(f"{min(a, b)} {max(a, b)}")  # both orders are on the same side
            if split_of(problem) == self.split:
                question = (Message("user", f"which is larger , {a} or {b} ?"),)
                return Prompt(problem, question, reference=str(max(a, b)), task="integer")

    def document(self, index: int) -> Document:
        """What pretraining and sft learn from: the question, answered."""
        prompt = self.prompt(index)
        text = f"<think> {prompt.reference} is larger </think> <answer> {prompt.reference} </answer>"
        return Document(prompt.messages, text)


def corpus() -> Iterator[str]:
    """Text for `tokenizer: {train: {source: larger}}`; only for a tokenizer that is trained."""
    yield " ".join(str(number) for number in range(21))
    yield "which is larger , or ?"
