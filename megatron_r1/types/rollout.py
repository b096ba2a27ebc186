"""From a prompt to a graded completion.

prompt -> rollout -> reward
Prompt    Completion  Scored
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str  # system | user | assistant
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question with its reference answer.

    id: hash of the content, the same in every run; it also decides the split.
    task: the name of the verifier that grades it ("integer", "math", "gym:chain_sum", ...).
    language: the language that the answer is to be written in ("en", "zh", ...).
    source: the name of its source in the stage's data, which stands for its domain.
    place: FILE:LINE of one that was read from a file.
    """

    id: str
    messages: tuple[Message, ...]
    reference: str
    task: str
    language: str = "en"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    place: str = field(default="", compare=False)

    @property
    def question(self) -> str:
        return self.messages[-1].content


@dataclass(frozen=True, slots=True)
class Document:
    """Text to learn from: `response` follows the rendered `messages` (none for plain text)."""

    messages: tuple[Message, ...]
    response: str
    language: str = "en"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. temperature 0 is greedy. The same seed gives the same samples in every layout.

    keep_routes, keep_nucleus: return what training needs to follow a rollout's experts and its truncation.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    keep_routes: bool = False
    keep_nucleus: bool = False


@dataclass(frozen=True, slots=True)
class Nucleus:
    """The tokens that each of n positions could draw, one list after the other.

    ids: int32. offsets: [n + 1] int64; position i could draw ids[offsets[i] : offsets[i + 1]].
    An empty list: the whole vocabulary.
    """

    ids: Tensor
    offsets: Tensor


@dataclass(frozen=True, slots=True)
class SamplingTrace:
    """What sampling leaves behind beside tokens and log-probs.

    routes: [prompt + completion tokens - 1, moe_layers, top_k], the experts of each input token; None: not
    asked for (Sampling.keep_routes).
    nucleus: of the completion's tokens; None: not asked for (Sampling.keep_nucleus).
    drafted, accepted: tokens that were guessed by speculation, and those of them that were right.
    versions: of the weights that drew each token, where several steps did; None: one step drew all.
    """

    routes: Tensor | None = None
    nucleus: Nucleus | None = None
    drafted: int = 0
    accepted: int = 0
    versions: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a policy generates for one prompt; the fields are those of Completion."""

    token_ids: list[int]
    logprobs: list[float]
    trace: SamplingTrace = SamplingTrace()


@dataclass(frozen=True, slots=True)
class Begun:
    """An output that a call of `generate` goes on with, from the first token or a later one.

    due: the call ends when all outputs that are due have ended, on all replicas; the others come back as far
    as they are then. limit: the most tokens that it comes back with; None: the sampling's.
    """

    output: Sampled
    due: bool
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer. token_ids end with EOS unless the answer was cut (finished is False).

    policy_version: of the weights that drew its first token.
    """

    prompt: Prompt
    prompt_ids: list[int]
    token_ids: list[int]
    rollout_logprobs: list[float]  # of token_ids, by the engine that sampled them
    text: str  # decoded token_ids, tags kept, EOS removed
    finished: bool
    policy_version: int
    trace: SamplingTrace = SamplingTrace()


@dataclass(frozen=True, slots=True)
class Score:
    """One reward's judgement of one completion; value None: ungradable, and `note` says why."""

    value: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """A completion with its combined reward and the parts; reward None: a part was ungradable."""

    completion: Completion
    reward: float | None
    parts: dict[str, Score]
