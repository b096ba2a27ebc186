"""Rewrites a completion of R1-Zero in R1's output form: the reasoning in tags, then a summary.

DeepSeek-R1, section 2.3.1: |special_token|<reasoning_process>|special_token|<summary>. In the paper
DeepSeek-V3 writes the summary; here a template of each language states the answer. A response from which
another answer would be read afterwards is refused.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from megatron_r1.rewards.answers.answer import chain_of_thought, final_answer
from megatron_r1.section import Section
from megatron_r1.types import Completion

CHAIN, SUMMARY, ANSWER = "{chain}", "{summary}", "{answer}"


def containing(*parts: str) -> AfterValidator:
    """A validator of a text in the configuration: it must contain each of the parts."""

    def check(text: str) -> str:
        missing = [part for part in parts if part not in text]
        if missing:
            raise ValueError(f"must contain {' and '.join(missing)}")
        return text

    return AfterValidator(check)


class Rewrite(Section):
    """How responses are rewritten."""

    form: Annotated[str, containing(CHAIN, SUMMARY)] = f"<think>\n{CHAIN}\n</think>\n\n{SUMMARY}"
    """The whole response; {chain} and {summary} stand for its parts."""
    summary: dict[str, str] = Field(min_length=1)
    """The summary of each language; {answer} stands for the final answer. Completions in any other language
    are dropped."""

    @field_validator("summary")
    @classmethod
    def _names_the_answer(cls, summary: dict[str, str]) -> dict[str, str]:
        without = [language for language, text in summary.items() if ANSWER not in text]
        if without:
            raise ValueError(f"must contain {ANSWER} in every language; not in {', '.join(without)}")
        return summary

    def rewritten(self, completion: Completion) -> str | None:
        """The response in the new form; None without an answer, a chain of thought or a summary template."""
        answer, summary = final_answer(completion.text), self.summary.get(completion.prompt.language)
        chain = chain_of_thought(completion.text).strip()
        if answer is None or summary is None or not chain:
            return None
        # the chain comes last: placeholders in the model's own text must stay as they are
        text = self.form.replace(SUMMARY, summary.replace(ANSWER, answer)).replace(CHAIN, chain)
        return text if final_answer(text) == answer else None
