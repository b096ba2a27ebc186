"""From prompts to completions: what grpo and evaluation share."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.errors import DataError
from megatron_r1.stages.context import StageContext
from megatron_r1.types import Completion, OnEnd, Prompt, Sampled, Sampling


def sample(
    context: StageContext,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    keys: Sequence[int],
    force_think: bool = False,
    on_end: OnEnd | None = None,
) -> list[Completion]:
    """One completion a prompt (repeat a prompt for more); keys decide the random draws. on_end: as of
    Policy.generate."""
    prompt_ids = [
        context.template.prompt_ids(prompt.messages, context.tokenizer, force_think=force_think)
        for prompt in prompts
    ]
    version = context.policy.version
    outputs = context.policy.generate(prompt_ids, sampling, keys=keys, on_end=on_end)
    return [
        completion_of(context, prompt, ids, output, version=version)
        for prompt, ids, output in zip(prompts, prompt_ids, outputs, strict=True)
    ]


def completion_of(
    context: StageContext, prompt: Prompt, prompt_ids: list[int], output: Sampled, *, version: int
) -> Completion:
    """An output with its text. version: of the weights that drew it."""
    return Completion(
        prompt=prompt,
        prompt_ids=prompt_ids,
        token_ids=output.token_ids,
        rollout_logprobs=output.logprobs,
        text=context.tokenizer.decode(output.token_ids),
        finished=ended(output.token_ids, context.tokenizer),
        policy_version=version,
        trace=output.trace,
    )


def ended(token_ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether an output has said its end, rather than been cut at the limit."""
    return bool(token_ids) and token_ids[-1] in tokenizer.eos_ids


def draft_counts(completions: Iterable[Completion]) -> dict[str, float]:
    """What speculation drafted for them and how much of it was right, to be added up over replicas."""
    traces = [completion.trace for completion in completions]
    return {
        "drafted": float(sum(trace.drafted for trace in traces)),
        "accepted": float(sum(trace.accepted for trace in traces)),
    }


def accepted_share(total: Mapping[str, float], *, name: str = "rollout/accepted") -> dict[str, float]:
    """The metric of summed `draft_counts`; nothing where nothing was drafted."""
    return {name: total["accepted"] / total["drafted"]} if total["drafted"] else {}


def can_be_quoted(context: StageContext, completion: Completion) -> bool:
    """Whether a response can stand in a conversation, or be trained on.

    A closed vocabulary can't spell a forged role mark, nor what an id without a piece decodes to.
    """
    try:
        context.template.response_ids(completion.text, context.tokenizer)
    except DataError:
        return False
    return bool(completion.text)


def draw_key(*parts: int | str) -> int:
    """A number for the random draws of one output, the same in every layout."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest())
