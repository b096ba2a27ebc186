"""R1's output form for a sample of R1-Zero: the reasoning between its tags, then a summary with the answer.

DeepSeek-R1, section 2.3.1: |special_token|<reasoning_process>|special_token|<summary>. The paper lets
DeepSeek-V3 write the summary; here it is a sentence a language with the answer in it, by rule. A response
whose answer would not be the same afterwards is refused.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from megatron_r1.rewards.answers.answer import chain_of_thought, final_answer
from megatron_r1.section import Section
from megatron_r1.types import Completion

CHAIN, SUMMARY, ANSWER = "{chain}", "{summary}", "{answer}"


def containing(*parts: str) -> AfterValidator:
    """Of a text in the configuration: each of the parts must be in it."""

    def check(text: str) -> str:
        missing = [part for part in parts if part not in text]
        if missing:
            raise ValueError(f"must contain {' and '.join(missing)}")
        return text

    return AfterValidator(check)


class Rewrite(Section):
    """How a response is written anew."""

    form: Annotated[str, containing(CHAIN, SUMMARY)] = f"<think>\n{CHAIN}\n</think>\n\n{SUMMARY}"
    """The whole response; {chain} and {summary} stand for its parts."""
    summary: dict[str, str] = Field(min_length=1)
    """The summary by language; {answer} stands for the final answer. A language that is missing is left out
    of the data."""

    @field_validator("summary")
    @classmethod
    def _names_the_answer(cls, summary: dict[str, str]) -> dict[str, str]:
        without = [language for language, text in summary.items() if ANSWER not in text]
        if without:
            raise ValueError(f"must contain {ANSWER} in every language; not in {', '.join(without)}")
        return summary

    def rewritten(self, completion: Completion) -> str | None:
        """The response in the new form; None where there is no way to write it."""
        answer, summary = final_answer(completion.text), self.summary.get(completion.prompt.language)
        chain = chain_of_thought(completion.text).strip()
        if answer is None or summary is None or not chain:
            return None
        # the chain last: what a model wrote must not be filled in again
        text = self.form.replace(SUMMARY, summary.replace(ANSWER, answer)).replace(CHAIN, chain)
        return text if final_answer(text) == answer else None
