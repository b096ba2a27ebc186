"""The arithmetic task asked for in ways that R1 is hardly trained in: in a third language, or for JSON.

DeepSeek-R1 names both among its limits (section 5). A base reads a little of each; RL and fine-tuning never
ask for it, so an evaluation shows what becomes of it.

    вычисли 7 + 8 - 2        graded as usual; the language is ru
    compute 7 + 8 - 2 json   graded by `json:integer`: { "answer" : 13 } after the reasoning
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from megatron_r1.data.chat_template import ANSWER_CLOSE, ANSWER_OPEN
from megatron_r1.data.source import Source
from megatron_r1.data.split import Split
from megatron_r1.section import Section
from megatron_r1.types import Document, Message, Prompt

from . import arithmetic
from .arithmetic import LANGUAGES, Arithmetic, ArithmeticSource, Mix, Preset, named_mix

THIRD = ("ru",)
AS_JSON = "json"
JSON_WORDS = ("{", '"answer"', ":", "}")


class Unusual(Section):
    """Endless chains of small numbers, asked for in an unusual way."""

    source: Literal["unusual"] = "unusual"
    weight: float = Field(default=1.0, gt=0, le=1e15)
    """Share in a mixture, relative to the other sources."""
    ask: Literal["third_language", "json"]
    """third_language: question and chain in Russian. json: a JSON object as the answer."""
    mix: Annotated[Mix, BeforeValidator(named_mix, json_schema_input_type=Preset | Mix)] = Mix()
    """What documents are made of, as in `arithmetic`."""

    def build(self, seed: int, *, split: Split = "train") -> Source:
        languages = LANGUAGES if self.ask == "json" else THIRD
        chains = ArithmeticSource(Arithmetic(mix=self.mix), seed=seed, split=split, languages=languages)
        return JsonSource(chains) if self.ask == "json" else chains


SOURCE = Unusual


class JsonSource:
    """The same questions, with a word that asks for JSON."""

    size = None

    def __init__(self, chains: ArithmeticSource) -> None:
        self._chains = chains

    def prompt(self, index: int) -> Prompt:
        prompt = self._chains.prompt(index)
        question = Message("user", f"{prompt.question} {AS_JSON}")
        return replace(
            prompt, id=f"{prompt.id}-{AS_JSON}", messages=(question,), task=f"{AS_JSON}:{prompt.task}"
        )

    def document(self, index: int) -> Document:
        """The answer as JSON where the corpus has one between tags; the rest stays as it is."""
        document = self._chains.document(index)
        if not document.messages:
            return document
        open_, key, colon, close = JSON_WORDS
        response = document.response.replace(ANSWER_OPEN, f"{open_} {key} {colon}")
        question = Message("user", f"{document.messages[0].content} {AS_JSON}")
        return replace(document, messages=(question,), response=response.replace(ANSWER_CLOSE, close))


def corpus() -> list[str]:
    """Every word of prompts and documents, one a line."""
    return [*arithmetic.corpus(languages=(*LANGUAGES, *THIRD)), AS_JSON, *JSON_WORDS]
