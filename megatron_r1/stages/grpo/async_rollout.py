"""Rollouts ahead of training: a question is asked some steps before its outputs are trained on, which is
`rollout.max_off_policy_steps`.

A rollout takes as long as its longest output, and for most of that time few outputs are left to fill the
machine. Here it ends as soon as the outputs that are due in this step have ended; the others are carried over
and go on in the next step's rollout, with the weights of then. Which questions a step trains on is what it is
without: nothing is dropped, and no short output is preferred.

Of n rollouts that an output has, each takes it at most an n-th of the longest output further. Without this
limit the first rollout would end the outputs of the second as well, the second would take no time, the third
would be long again, and so on.

Every token keeps the version of the weights that drew it. Training corrects by importance weights: the loss's
ratio is to the policy at the start of the step, and rollout_correction weighs that policy against the weights
that drew the token ("decoupled" PPO: Hilton et al., 2110.00641; AReaL, 2505.24298).
"""

# Q questions a step over all replicas, G outputs a question

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from megatron_r1.config.rollout import FEATURES, conflicts
from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.sampling import completion_of, draw_key, ended
from megatron_r1.types import Begun, Completion, Prompt, Replicas, Sampled, Sampling, SamplingTrace

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig
    from megatron_r1.stages.grpo.trainer import Grpo


@dataclass(slots=True)
class Asked:
    """A question of the stage, by its number, and its outputs so far, with each token's version."""

    question: int
    prompt: Prompt
    prompt_ids: list[int]
    outputs: list[Sampled]
    versions: list[list[int]]


class Ahead:
    """The questions of this replica that are asked and not yet trained on, in their order."""

    def __init__(self, context: StageContext, *, group_size: int, max_off_policy_steps: int) -> None:
        self.context, self.group_size = context, group_size
        self.rollouts = 1 + max_off_policy_steps  # that an output has
        self.asked: list[Asked] = []

    def ask(self, question: int, prompt: Prompt) -> None:
        """Its outputs begin with the next rollout."""
        self._add(question, prompt, [Sampled([], []) for _ in range(self.group_size)], versions=None)

    def rollout(self, sampling: Sampling, *, due: int) -> tuple[list[Completion], int]:
        """Go on until the outputs of the first `due` questions, a step's, have ended on all replicas: they
        leave.

        Returns their completions, whole groups in a row, and the number of tokens drawn for all questions.
        """
        context, tokenizer = self.context, self.context.tokenizer
        limits = [
            -(-sampling.max_new_tokens * (self.rollouts - place // due) // self.rollouts)
            for place in range(len(self.asked))
        ]
        rows = [
            (place, output)
            for place, one in enumerate(self.asked)
            for output in range(self.group_size)
            if not _has_ended(one.outputs[output], tokenizer, limits[place])
        ]
        version = context.policy.version
        found = context.policy.generate(
            [self.asked[place].prompt_ids for place, _ in rows],
            sampling,
            keys=[draw_key(context.name, self.asked[place].question, output) for place, output in rows],
            begun=[
                Begun(self.asked[place].outputs[output], due=place < due, limit=limits[place])
                for place, output in rows
            ],
        )
        drawn = 0
        for (place, output), now in zip(rows, found, strict=True):
            new = len(now.token_ids) - len(self.asked[place].outputs[output].token_ids)
            self.asked[place].outputs[output] = now
            self.asked[place].versions[output] += [version] * new
            drawn += new
        done, self.asked = self.asked[:due], self.asked[due:]
        return [completion for one in done for completion in self._completions(one)], drawn

    def _completions(self, one: Asked) -> list[Completion]:
        return [
            completion_of(
                self.context,
                one.prompt,
                one.prompt_ids,
                replace(output, trace=replace(output.trace, versions=versions)),
                version=versions[0],
            )
            for output, versions in zip(one.outputs, one.versions, strict=True)
        ]

    def _add(
        self, question: int, prompt: Prompt, outputs: list[Sampled], versions: list[list[int]] | None
    ) -> None:
        ids = self.context.template.prompt_ids(prompt.messages, self.context.tokenizer)
        self.asked.append(Asked(question, prompt, ids, outputs, versions or [[] for _ in outputs]))

    # ---- the checkpoint's part

    def state(self, replicas: Replicas) -> list[dict[str, Any]]:
        """All replicas' questions for the checkpoint, on the main rank; collective. 16 bytes a token."""
        mine = [
            {"question": one.question, "outputs": list(map(_packed, one.outputs, one.versions))}
            for one in self.asked
        ]
        nothing: list[list[dict[str, Any]]] = [[] for _ in range(replicas.count - 1)]
        return sorted(replicas.exchange([mine, *nothing]), key=lambda entry: entry["question"])

    def restore(
        self, state: Sequence[Mapping[str, Any]], prompt: Callable[[int], Prompt], mine: Callable[[int], bool]
    ) -> None:
        """state: as `state` gave it, in any layout. mine: whether a question is this replica's."""
        for entry in state:
            question = entry["question"]
            if mine(question):
                pairs = [_unpacked(packed) for packed in entry["outputs"]]
                self._add(question, prompt(question), [o for o, _ in pairs], [v for _, v in pairs])


def rollout_problems(stage: "Grpo", run: "RunConfig") -> Iterator[str]:
    """What check says of how a stage samples."""
    steps = stage.max_off_policy_steps
    asked = {
        "routing_replay": "true" if stage.routing_replay else "",
        "top_p": str(stage.top_p) if stage.top_p < 1 else "",
        "resample": stage.groups.no_signal if stage.groups.no_signal == "resample" else "",
        "overlap_rewards": "true" if stage.rollout.overlap_rewards else "",
        "max_off_policy_steps": str(steps) if steps else "",
        "uncorrected": "" if stage.loss.needs_rollout else "none",
    }
    written = {name: f"{FEATURES[name].key}={value}" for name, value in asked.items() if value}
    yield from conflicts(run.rollout.engine, written, run.rollout.features())
    if steps >= stage.steps:
        key = "rollout.max_off_policy_steps"
        yield f"{key}: {steps} is not below the {stage.steps} steps of the stage; lower it"


def _has_ended(output: Sampled, tokenizer: Tokenizer, limit: int) -> bool:
    return ended(output.token_ids, tokenizer) or len(output.token_ids) >= limit


def _packed(output: Sampled, versions: Sequence[int]) -> dict[str, Any]:
    """JSON of an output so far; log-probs are float32 from the start."""
    return {
        "tokens": _text(output.token_ids, "<i4"),
        "logprobs": _text(output.logprobs, "<f4"),
        "versions": _text(versions, "<i4"),
        "drafted": output.trace.drafted,
        "accepted": output.trace.accepted,
    }


def _unpacked(packed: Mapping[str, Any]) -> tuple[Sampled, list[int]]:
    tokens, logprobs = _values(packed["tokens"], "<i4"), _values(packed["logprobs"], "<f4")
    trace = SamplingTrace(drafted=packed["drafted"], accepted=packed["accepted"])
    return Sampled(tokens, logprobs, trace), _values(packed["versions"], "<i4")


def _text(values: Sequence[float], kind: str) -> str:
    return base64.b64encode(np.array(values, dtype=kind).tobytes()).decode("ascii")


def _values(text: str, kind: str) -> list[Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=kind).tolist()
