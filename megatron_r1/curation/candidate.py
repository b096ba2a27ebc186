"""A graded completion as a line of JSON: a chat with its provenance, or the reason why it was dropped."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from megatron_r1.curation.contamination import EvaluationText
from megatron_r1.curation.filters import Filters
from megatron_r1.curation.rewrite import Rewrite
from megatron_r1.curation.verdict import Verdict
from megatron_r1.types import Completion


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a stage's completions were sampled, the same for all of them. weights: the hash of the weights."""

    stage: str
    init: str | None
    weights: str
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Screen:
    """The checks of a single completion: grade, contamination, role marks, filters, rewriting."""

    filters: Filters
    evaluation: EvaluationText | None
    rewrite: Rewrite | None
    role_marks: Collection[str] = ()  # the chat template's; a response that holds one forges a turn

    def line(
        self, completion: Completion, verdict: Verdict, *, index: int, sample: int, origin: Provenance
    ) -> dict[str, Any]:
        """The line. index: of the prompt in its data; sample: of the completion among the prompt's."""
        stub = {"source": completion.prompt.source, "tokens": len(completion.token_ids)}
        reason = self._reason(completion, verdict)
        if reason is not None:
            return {**stub, "dropped": reason}
        text = completion.text if self.rewrite is None else self.rewrite.rewritten(completion)
        if text is None:
            return {**stub, "dropped": "rewrite"}
        prompt = completion.prompt
        asked = [asdict(message) for message in prompt.messages]
        return {
            **stub,
            "id": prompt.id,
            "messages": [*asked, {"role": "assistant", "content": text}],
            "reference": prompt.reference,
            "task": prompt.task,
            "language": prompt.language,
            "metadata": {
                **prompt.metadata,
                "provenance": {
                    **asdict(origin),
                    "source": prompt.source,
                    "prompt": index,
                    "sample": sample,
                    "tokens": len(completion.token_ids),
                    "rewritten": self.rewrite is not None,
                    "graded_by": verdict.by,
                    "scores": {name: score.value for name, score in verdict.scores.items()},
                },
            },
        }

    def _reason(self, completion: Completion, verdict: Verdict) -> str | None:
        if verdict.right is None:
            return "ungradable"
        if not verdict.right:
            return "wrong"
        question = completion.prompt.question
        if self.evaluation is not None and self.evaluation.is_in(question, completion.text):
            return "contaminated"
        if any(mark in completion.text for mark in self.role_marks):
            return "role_mark"
        return self.filters.reason(completion)


def published(line: dict[str, Any]) -> dict[str, Any]:
    """A kept line, without the keys that data/sources/jsonl.py doesn't know."""
    return {key: value for key, value in line.items() if key not in ("source", "tokens")}
