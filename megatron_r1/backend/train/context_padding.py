"""Pads sequences for context parallelism: a rank holds two equal chunks of each."""

import torch
import torch.nn.functional as F

from megatron_r1.types import Nucleus, TrainSequence


def pad_for_context(sequence: TrainSequence, context: int) -> TrainSequence:
    """Inputs (S - 1 tokens) padded to a multiple of 2 * context with tokens of weight 0; unchanged for 1."""
    padding = -(len(sequence.token_ids) - 1) % (2 * context) if context > 1 else 0
    if not padding:
        return sequence
    routes, nucleus = sequence.routes, sequence.nucleus
    if routes is not None:  # padding repeats the last token's experts: they only have to be distinct
        routes = torch.cat([routes, routes[-1:].expand(padding, -1, -1)])
    if nucleus is not None:
        nucleus = Nucleus(nucleus.ids, torch.cat([nucleus.offsets, nucleus.offsets[-1:].expand(padding)]))
    return TrainSequence(
        token_ids=F.pad(sequence.token_ids, (0, padding)),
        weights=F.pad(sequence.weights, (0, padding)),
        loss_inputs=sequence.loss_inputs.each(lambda values: F.pad(values, (0, padding))),
        routes=routes,
        nucleus=nucleus,
        padding=sequence.padding + padding,
    )
