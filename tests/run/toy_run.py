"""A run of two toy stage kinds, for the tests of the chain that need no real stage."""

import sys
from typing import Literal

from megatron_r1.registry import Entry
from megatron_r1.run.config import RunConfig
from megatron_r1.stages.base import StageConfig

TEXT = """\
name: toy
tokenizer: {kind: sentencepiece, train: {source: arithmetic}}
template: minimal
model:
  family: qwen2
  num_layers: 4
  hidden_size: 32
  num_attention_heads: 4
  num_query_groups: 2
  ffn_hidden_size: 64
  vocab_size: 64
layout: {ranks: 2}
stages:
  base: {kind: learn, steps: 3}
  zero:
    kind: ask
    init: base
    questions: 8
"""


class Learn(StageConfig):
    """Learns."""

    kind: Literal["learn"]
    steps: int = 1
    path: str | None = None


class Ask(StageConfig):
    """Asks questions, several outputs each."""

    kind: Literal["ask"]
    questions: int
    group_size: int = 4

    def problems(self, run: RunConfig) -> list[str]:
        if self.questions % run.layout.data:
            return [f"questions: {self.questions} do not divide over {run.layout.data} replicas; change one",
                    "no question is like another"]  # fmt: skip
        return []

    def warnings(self, run: RunConfig) -> list[str]:
        return ["few questions"] if self.questions < 4 else []

    def batch_table(self, run: RunConfig) -> list[tuple[str, str]]:
        total = self.questions * self.group_size
        return [
            ("outputs a step", f"{self.questions} questions x {self.group_size} outputs = {total}"),
            ("outputs a replica", f"{total} / {run.layout.data} = {total // run.layout.data}"),
        ]


STAGES = {
    "learn": Entry("learn", Learn, sys.modules[__name__]),
    "ask": Entry("ask", Ask, sys.modules[__name__]),
}
