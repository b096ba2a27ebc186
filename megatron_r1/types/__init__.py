"""The data that moves through a step, one type a phase, and the protocols between the packages.

prompt -> rollout -> reward -> advantage -> packed batch -> train step -> (refit) -> next step
Prompt    Completion  Scored    TrainSequence  PackedBatch   StepStats
"""

from megatron_r1.types.policy import OnEnd, Policy, Refits, Replicas, Scorer
from megatron_r1.types.rollout import (
    Begun,
    Completion,
    Document,
    Message,
    Nucleus,
    Prompt,
    Sampled,
    Sampling,
    SamplingTrace,
    Score,
    Scored,
)
from megatron_r1.types.training import (
    LossFunction,
    LossInput,
    LossInputs,
    OptimizerOptions,
    PackedBatch,
    ScoreLoss,
    StepStats,
    TrainSequence,
)

__all__ = [
    "Begun",
    "Completion",
    "Document",
    "LossFunction",
    "LossInput",
    "LossInputs",
    "Message",
    "Nucleus",
    "OnEnd",
    "OptimizerOptions",
    "PackedBatch",
    "Policy",
    "Prompt",
    "Refits",
    "Replicas",
    "Sampled",
    "Sampling",
    "SamplingTrace",
    "Score",
    "ScoreLoss",
    "Scored",
    "Scorer",
    "StepStats",
    "TrainSequence",
]
