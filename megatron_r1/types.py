"""The data that moves through a step, one type a phase, and the protocols between the packages.

prompt -> rollout -> reward -> advantage -> packed batch -> train step -> (refit) -> next step
Prompt    Completion  Scored    TrainSequence  PackedBatch   StepStats
"""

# S tokens of one sequence, T tokens of a pack, N sequences in a pack

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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
class Sampled:
    """What a policy generates for one prompt; the fields are those of Completion."""

    token_ids: list[int]
    logprobs: list[float]
    routes: Tensor | None = None
    nucleus: Nucleus | None = None
    drafted: int = 0
    accepted: int = 0


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

    policy_version: of the weights that drew its first token. versions: of those that drew each token, where
    it was drawn over several steps; None: all as the first.
    """

    prompt: Prompt
    prompt_ids: list[int]
    token_ids: list[int]
    rollout_logprobs: list[float]  # of token_ids, by the engine that sampled them
    text: str  # decoded token_ids, tags kept, EOS removed
    finished: bool
    policy_version: int
    routes: Tensor | None = None  # [len(prompt_ids) + len(token_ids) - 1, moe_layers, top_k] expert indices
    nucleus: Nucleus | None = None  # of token_ids
    drafted: int = 0  # tokens that were guessed by speculation, and those of them that were right
    accepted: int = 0
    versions: list[int] | None = None


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


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One sequence to train on.

    token_ids: [S]. weights: [S] float32, the share of token i in the loss when it is predicted (the
    first is never predicted: 0); over the whole batch of a step the weights carry the normalisation.
    fields: per-token extras of shape [S], aligned as weights are (advantage, old_logprobs, ...).
    padding: how many tokens at the end only fill it up.
    """

    token_ids: Tensor
    weights: Tensor
    fields: dict[str, Tensor] = field(default_factory=dict)
    routes: Tensor | None = None  # [S - 1, moe_layers, top_k]
    nucleus: Nucleus | None = None  # [S] positions: what token i was drawn from
    padding: int = 0


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences side by side without padding between them; the model sees one row of T tokens.

    tokens: [T] inputs. labels: [T] the token after each input. weights: [T] of predicting the label.
    positions: [T] from 0 in each sequence. cu_seqlens: [N + 1] int32 offsets, the last is T.
    fields: [T] each, aligned with labels. Tail padding is one more sequence of weight 0.
    padding: [T] bool, the inputs that only fill the pack and that no router counts; None: there are none.
    """

    tokens: Tensor
    labels: Tensor
    weights: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    fields: dict[str, Tensor] = field(default_factory=dict)
    routes: Tensor | None = None  # [T, moe_layers, top_k]
    nucleus: Nucleus | None = None  # [T] positions, aligned with labels
    padding: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Inputs without the padding."""
        return len(self.tokens) - (0 if self.padding is None else int(self.padding.sum()))


# loss(logprobs [T], entropy [T] or None, batch) -> (loss a token [T], before the weights;
# sums of metrics by name, each a tensor [2] of (sum, count), added up over packs and ranks)
# Log-probs and entropies of tokens of weight 0 may be 0: neither loss nor metrics count them.
LossFunction = Callable[[Tensor, Tensor | None, PackedBatch], tuple[Tensor, dict[str, Tensor]]]


# loss(scores [N] of this copy's sequences) -> (this copy's share of the loss [], sums of metrics by name as
# above); the shares of all copies add up
ScoreLoss = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True, slots=True)
class OptimizerOptions:
    """AdamW's constants; the learning rate comes with every update. Defaults: DeepSeek-V3, section 4.2."""

    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_grad: float = 1.0


@dataclass(frozen=True, slots=True)
class StepStats:
    """What an update reports: means over the global batch. `metrics` are the loss function's own."""

    loss: float
    grad_norm: float
    metrics: dict[str, float]
    num_tokens: int  # trained on, over all ranks


@dataclass(frozen=True, slots=True)
class Refits:
    """Copies of the weights into the layout of the rollout: how many, bytes between ranks, and seconds."""

    count: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Refits") -> "Refits":
        return Refits(
            self.count + other.count, self.num_bytes + other.num_bytes, self.seconds + other.seconds
        )

    def __sub__(self, other: "Refits") -> "Refits":
        return Refits(
            self.count - other.count, self.num_bytes - other.num_bytes, self.seconds - other.seconds
        )


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a finished stage leaves: written last, atomically, as artifact.json."""

    stage: str
    kind: str
    config: Mapping[str, Any]  # all that decides the result
    config_hash: str
    inputs: Mapping[str, Any]  # by name, each with its hash: stages, weights, files (run/lineage.py)
    checkpoint: str | None  # path relative to the stage's directory
    metrics: dict[str, float]
    outputs: dict[str, str] = field(default_factory=dict)  # data files for later stages -> BLAKE3


class Replicas(Protocol):
    """Communication between the copies of the model (data-parallel ranks), for stages.

    All ranks of one copy (its tensor, pipeline and context ranks) run the same stage code on the same data.
    """

    index: int  # of this copy, 0 .. count - 1
    count: int
    is_main: bool  # this rank writes files and logs
    leads: bool  # this rank speaks for its copy: `share` calls `make` here

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add up over the copies; every rank gets the result. The keys must agree."""
        ...

    def gather(self, items: Sequence[Any]) -> list[Any]:
        """All copies' items, in the order of the copies, on every rank."""
        ...

    def exchange(self, outgoing: Sequence[Sequence[Any]]) -> list[Any]:
        """outgoing[i] goes to copy i; returns what came from all copies, in their order."""
        ...

    def share(self, make: Callable[[], Any]) -> Any:
        """Call `make` once a copy and give its result to all ranks of the copy."""
        ...

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; every rank gets the answer."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...


OnEnd = Callable[[int, list[int]], None]  # an output's place, its token ids


class Policy(Protocol):
    """The model as stages see it: sampled from, scored with, trained, saved. Never Megatron's own types."""

    version: int  # +1 with every update
    refits: Refits  # so far

    @property
    def replicas(self) -> Replicas:
        """The copies of the model."""
        ...

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int],
        begun: Sequence[Begun] | None = None,
        on_end: OnEnd | None = None,
    ) -> list[Sampled]:
        """One output for each of this copy's prompts.

        keys: one number a prompt that, with sampling.seed, decides its random draws in any layout. begun: how
        far each output is; None: nothing is there, and all are due. on_end: may be told of each output as
        it ends, by its place among the prompts; not every engine does.
        """
        ...

    def logprobs(
        self, sequences: Sequence[TrainSequence], *, reference: bool = False, temperature: float = 1.0
    ) -> list[Tensor]:
        """[S] float32 for each sequence: log-prob of token i given those before it (first 0).

        Where the weight is 0, it may be 0 as well (prompt_logits)."""
        ...

    def refresh_reference(self) -> None:
        """The reference becomes a copy of the weights as they are now."""
        ...

    def start_training(self, options: OptimizerOptions) -> None:
        """Make a new optimizer for the weights as they are."""
        ...

    def train_step(
        self,
        sequences: Sequence[TrainSequence],
        loss: LossFunction,
        *,
        lr: float,
        temperature: float = 1.0,
        entropy: bool = False,
        mtp: bool = False,
    ) -> StepStats:
        """One optimizer update on this copy's sequences (one at least); gradients are summed over the copies.

        entropy: measure it and hand it to the loss. mtp: add the MTP loss, if the model has the layers.
        """
        ...

    def save(self, directory: Path, state: Mapping[str, Any]) -> None:
        """Write weights, optimizer, random state and the stage's own `state` as one complete checkpoint."""
        ...

    def load(self, directory: Path, *, weights_only: bool = False) -> dict[str, Any]:
        """Read a checkpoint of any layout; returns the stage's `state`."""
        ...


class Scorer(Protocol):
    """A model that gives a whole sequence one number: a reward model as stages and rewards see it."""

    @property
    def replicas(self) -> Replicas:
        """The copies of the model."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """One number for each of this copy's sequences of token ids; collective, none included."""
        ...

    def train_step(self, sequences: Sequence[Sequence[int]], loss: ScoreLoss, *, lr: float) -> StepStats:
        """One optimizer update on this copy's sequences (one at least); gradients are summed over copies."""
        ...
