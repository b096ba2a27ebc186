"""From sequences to an update, and what it reports.

packed batch -> train step
TrainSequence, PackedBatch  StepStats
"""

# S tokens of one sequence, T tokens of a pack, N sequences in a pack

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from megatron_r1.types.rollout import Nucleus

LossInput = Literal[
    "advantages", "old_logprobs", "ref_logprobs", "rollout_logprobs", "teacher_logprobs", "fresh"
]


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a loss reads of each token beside the model's own log-probs.

    [S] float32 each for a sequence and [T] for a pack, aligned as weights are; tokens that were given, not
    sampled, have 0.

    advantages: of the token's completion. None: there are no rewards.
    old_logprobs: the trainer's, before the first update on these completions. None: this is the first one.
    ref_logprobs: the reference's. None: the loss has no use for them.
    rollout_logprobs: of the engine that sampled. None: nothing was sampled.
    teacher_logprobs: of the model that is distilled from. None: there is none.
    fresh: 1 where the policy sampled the token as it is now, 0 where its older weights did. None: all are 1.
    """

    advantages: Tensor | None = None
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    rollout_logprobs: Tensor | None = None
    teacher_logprobs: Tensor | None = None
    fresh: Tensor | None = None

    @classmethod
    def zeros(cls, names: Iterable[LossInput], length: int) -> "LossInputs":
        """Those of the names, [length] each."""
        return cls(**{name: torch.zeros(length) for name in names})

    @property
    def names(self) -> list[LossInput]:
        """Those that are there."""
        return [one.name for one in fields(self) if getattr(self, one.name) is not None]  # type: ignore[misc]

    def required(self, name: LossInput) -> Tensor:
        """One that the loss can't do without. LookupError: the batch has none."""
        value = getattr(self, name)
        if value is None:
            has = ", ".join(self.names) or "nothing"
            raise LookupError(f"the loss needs {name} of each token, and the batch has {has}")
        return value

    def each(self, change: Callable[[Tensor], Tensor]) -> "LossInputs":
        """All that are there, changed alike."""
        return LossInputs(**{name: change(self.required(name)) for name in self.names})


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One sequence to train on.

    token_ids: [S]. weights: [S] float32, the share of token i in the loss when it is predicted (the
    first is never predicted: 0); over the whole batch of a step the weights carry the normalisation.
    padding: how many tokens at the end only fill it up.
    """

    token_ids: Tensor
    weights: Tensor
    loss_inputs: LossInputs = LossInputs()
    routes: Tensor | None = None  # [S - 1, moe_layers, top_k]
    nucleus: Nucleus | None = None  # [S] positions: what token i was drawn from
    padding: int = 0


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences side by side without padding between them; the model sees one row of T tokens.

    tokens: [T] inputs. labels: [T] the token after each input. weights: [T] of predicting the label.
    positions: [T] from 0 in each sequence. cu_seqlens: [N + 1] int32 offsets, the last is T.
    loss_inputs: aligned with labels. Tail padding is one more sequence of weight 0.
    padding: [T] bool, the inputs that only fill the pack and that no router counts; None: there are none.
    """

    tokens: Tensor
    labels: Tensor
    weights: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    loss_inputs: LossInputs = LossInputs()
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
