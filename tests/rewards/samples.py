"""Completions for the reward tests."""

from typing import Any

from megatron_r1.types import Completion, Message, Prompt


def completion(
    text: str,
    *,
    reference: str = "",
    task: str = "integer",
    language: str = "en",
    finished: bool = True,
    num_tokens: int = 1,
    metadata: dict[str, Any] | None = None,
) -> Completion:
    prompt = Prompt("p0", (Message("user", "?"),), reference, task, language, metadata or {})
    return Completion(prompt, [1], [2] * num_tokens, [0.0] * num_tokens, text, finished, 0)


def answered(answer: str, *, reference: str, task: str, metadata: dict[str, Any] | None = None) -> Completion:
    return completion(
        f"<think>so</think><answer>{answer}</answer>", reference=reference, task=task, metadata=metadata
    )
