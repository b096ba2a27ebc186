"""Two reasoning-gym families in the toy's words, with documents: sums asked for in prose, and syllogisms.

    State the final answer to the following arithmetic problem : 7 + 8 - 2 =
    Consider these statements : 1 . No fish are parents 2 . All parents are chefs Does it logically follow ...

Problems are the library's, graded as the task gym:FAMILY; the source `gym` has them for any tokenizer.
Here a question is written as words between single spaces, for a tokenizer of words, sums stay in 0..20 as the
toy's numbers do, and documents answer as the arithmetic corpus does, so that a tiny base has seen the form.
"""

import random
import re
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from megatron_r1.data.chat_template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from megatron_r1.data.sources.gym import Gym, GymSource
from megatron_r1.data.split import Split
from megatron_r1.errors import DataError
from megatron_r1.section import Section
from megatron_r1.types import Document, Message, Prompt

from . import arithmetic
from .arithmetic import Chain, Mix, Preset, named_mix, response_to

OPTIONS = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
    "syllogism": {"invalid_ratio": 0.5},
}
TOP = 20  # of the numbers that the toy has words for
MAX_TRIES = 64  # to find a sum in range: a third of them are
SO = "so"
_WORD = re.compile(r"\w+|[^\w\s]")


class GymWords(Section):
    """Endless problems of a reasoning-gym family, in words."""

    source: Literal["gym_words"] = "gym_words"
    weight: float = Field(default=1.0, gt=0, le=1e15)
    """Share in a mixture, relative to the other sources."""
    family: Literal["chain_sum", "syllogism"]
    """Which family of reasoning-gym."""
    mix: Annotated[Mix, BeforeValidator(named_mix, json_schema_input_type=Preset | Mix)] = Mix()
    """What documents are made of, as in `arithmetic`: chains of steps for sums, direct answers else."""

    def build(self, seed: int, *, split: Split = "train") -> "GymWordsSource":
        return GymWordsSource(self, seed=seed, split=split)


SOURCE = GymWords


class GymWordsSource:
    """The problems of one side of the split."""

    size = None

    def __init__(self, config: GymWords, *, seed: int, split: Split) -> None:
        self._config = config
        self._key = f"gym_words/{config.family}/{seed}"
        options = OPTIONS[config.family]
        self._problems = GymSource(Gym(family=config.family, options=options), seed=seed, split=split)

    def prompt(self, index: int) -> Prompt:
        for attempt in range(MAX_TRIES):
            prompt = self._problems.prompt(index * MAX_TRIES + attempt)
            if self._config.family != "chain_sum" or chain_of(prompt) is not None:
                return replace(prompt, messages=(Message("user", in_words(prompt.question)),))
        raise DataError(f"gym family {self._config.family!r}: no sum in 0..{TOP} among {MAX_TRIES}")

    def document(self, index: int) -> Document:
        prompt, rng = self.prompt(index), random.Random(f"{self._key}/document/{index}")
        chain, mix = chain_of(prompt), self._config.mix
        if chain is not None:
            return Document(prompt.messages, response_to(chain, rng, mix=mix, top=TOP))
        answer = prompt.reference
        # a guess is right half of the time anyway
        if rng.random() < mix.direct_error and rng.random() < 0.5:
            answer = {"Yes": "No", "No": "Yes"}[answer]
        if rng.random() >= mix.tags_share:
            return Document(prompt.messages, f"{SO} {answer}")
        return Document(
            prompt.messages,
            f"{THINK_OPEN} {SO} {answer} ; {THINK_CLOSE} {ANSWER_OPEN} {answer} {ANSWER_CLOSE}",
        )


def in_words(text: str) -> str:
    """Words and signs between single spaces."""
    return " ".join(_WORD.findall(text))


def chain_of(prompt: Prompt) -> Chain | None:
    """The sum of a prompt; None where it has none, or one whose running total leaves the toy's numbers."""
    expression = prompt.metadata["entry"]["metadata"].get("expression")
    if expression is None:
        return None
    first, *rest = expression.split()
    signs = tuple(1 if sign == "+" else -1 for sign in rest[0::2])
    chain = Chain((int(first), *map(int, rest[1::2])), signs, "en")
    total, totals = chain.operands[0], []
    for sign, operand in zip(signs, chain.operands[1:], strict=True):
        total += sign * operand
        totals.append(total)
    return chain if all(0 <= total <= TOP for total in totals) else None


def corpus() -> list[str]:
    """Every word of prompts and documents, one a line: found in as many problems as show them all."""
    found: dict[str, None] = dict.fromkeys(arithmetic.corpus())
    for family in ("chain_sum", "syllogism"):
        source = GymWords(family=family).build(0)
        for index in range(400):
            prompt = source.prompt(index)
            found |= dict.fromkeys([*prompt.question.split(), prompt.reference])
    return list(found)
