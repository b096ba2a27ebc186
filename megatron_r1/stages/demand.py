"""What a stage asks of the machine: the numbers that a plan is made from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of one step over all replicas, at most: outputs are taken at their full length.

    updates: optimizer updates. trained_tokens: through forward and backward, over all updates.
    scored_passes: forward passes over the same tokens (old log-probs, reference). pack_tokens: of a
    micro-batch. mtp: with the MTP loss. reference: a second set of weights is kept. outputs, output_tokens:
    sampled, and the longest of them. checkpoints: in the whole stage. other_models: the stages whose models
    are kept beside the policy: reward models, judges. steps_ahead: that outputs begin before they are due.
    """

    steps: int
    updates: int = 0
    trained_tokens: int = 0
    scored_passes: int = 0
    pack_tokens: int = 0
    mtp: bool = False
    reference: bool = False
    outputs: int = 0
    output_tokens: int = 0
    steps_ahead: int = 0
    checkpoints: int = 0
    other_models: tuple[str, ...] = ()
