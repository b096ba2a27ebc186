"""Sequences made divisible for context parallelism: a rank holds two equal chunks of each."""

import torch.nn.functional as F

from megatron_r1.types import TrainSequence


def pad_for_context(sequence: TrainSequence, context: int) -> TrainSequence:
    """Inputs (S - 1 tokens) padded to a multiple of 2 * context with tokens of weight 0; unchanged for 1."""
    padding = -(len(sequence.token_ids) - 1) % (2 * context) if context > 1 else 0
    if not padding:
        return sequence
    assert sequence.routes is None, "replayed routes and context parallelism do not go together"
    return TrainSequence(
        token_ids=F.pad(sequence.token_ids, (0, padding)),
        weights=F.pad(sequence.weights, (0, padding)),
        fields={name: F.pad(value, (0, padding)) for name, value in sequence.fields.items()},
    )
