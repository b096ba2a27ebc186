"""Training in one layout, sampling in another: the same tokens, log-probs and weights."""

from pathlib import Path
from typing import Any

import torch

from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.config.layout import Layout
from megatron_r1.errors import CheckpointError
from tests.distributed.scenarios import models, rollouts, train

SAMPLED = 5  # prompts; two replicas get unequal numbers


def refitted(
    layout: Layout, shared: Path, *, family: str, rollout: dict[str, Any], vocabulary: int | None = None
) -> dict[str, Any]:
    """Samples before and after an update in the rollout's layout, then of the same weights in training's."""
    policy = models.policy(family, layout, seed=11, vocabulary=vocabulary)
    policy.rollout_layout = Layout(ranks=layout.ranks, **rollout)
    policy.start_training(models.OPTIMIZER)
    sampling = rollouts.SAMPLINGS["sampled"]
    first = rollouts._sample(policy, sampling, SAMPLED)
    train.steps(policy, 0, 1)
    second = rollouts._sample(policy, sampling, SAMPLED)
    alone = rollouts._sample(policy, sampling, 1)
    refits = policy.refits
    found = {
        "first": first,
        "second": second,
        "alone": alone,
        "refits": [refits.count, refits.num_bytes, refits.seconds],
        "message": "" if policy.resharded is None else _message_when_stale(policy),
        "weights": [] if policy.resharded is None else sorted(policy.resharded.refitter.rows),
    }
    policy.rollout_layout = layout
    found["in_training"] = rollouts._sample(policy, sampling, SAMPLED)
    if vocabulary is not None:
        policy.rollout_options.engine = "modules"
        found["through_modules"] = rollouts._sample(policy, sampling, SAMPLED)
    return found


def _message_when_stale(policy: MegatronPolicy) -> str:
    """What the comparison says of two elements of a layer that have changed places; they go back after."""
    assert policy.resharded is not None
    changed = [
        parameter
        for chunk in policy.chunks
        for name, parameter in chunk.named_parameters()
        if name.endswith("mlp.linear_fc2.weight") and not name.startswith("mtp")
    ][:1]
    _exchange(changed)
    try:
        policy.resharded.refitter.compare()
    except CheckpointError as error:
        return str(error)
    finally:
        _exchange(changed)
    return ""


def _exchange(parameters: list[torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter[:2, 0] = parameter[:2, 0].flip(0)
