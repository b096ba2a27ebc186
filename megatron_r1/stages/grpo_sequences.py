"""From scored outputs to sequences to train on."""

import math
from collections.abc import Sequence

import torch

from megatron_r1.rl.advantage import Normalise, group_advantage
from megatron_r1.types import Completion, Nucleus, Scored, TrainSequence


def graded_sequences(
    scored: Sequence[Scored], *, group_size: int, normalise: Normalise, version: int
) -> list[TrainSequence]:
    """One for each output that could be graded; the others are left out of the update.

    scored: whole groups in a row. Weight 1 marks the tokens of the output until the update's weights are
    known; the fields are its advantage and the rollout's log-probs, and where a rollout is ahead of training,
    which tokens the policy drew as it is. version: the policy's.
    """
    rewards = torch.tensor([math.nan if s.reward is None else s.reward for s in scored])
    advantages = group_advantage(rewards.view(-1, group_size), normalise=normalise).flatten()
    return [
        _sequence(output.completion, advantage, version)
        for output, advantage in zip(scored, advantages.tolist(), strict=True)
        if output.reward is not None
    ]


def idle_sequence(eos_id: int, *, fields: Sequence[str]) -> TrainSequence:
    """What a replica runs while only the others have outputs: it takes part and adds nothing.

    Its one input is padding: no router counts it, and neither do losses and metrics.
    """
    return TrainSequence(
        token_ids=torch.full((2,), eos_id),
        weights=torch.zeros(2),
        fields={name: torch.zeros(2) for name in fields},
        padding=1,
    )


def _sequence(completion: Completion, advantage: float, version: int) -> TrainSequence:
    given, tokens = len(completion.prompt_ids), completion.token_ids
    weights = torch.cat([torch.zeros(given), torch.ones(len(tokens))])
    nucleus = completion.nucleus
    if nucleus is not None:  # the prompt was not drawn
        nucleus = Nucleus(nucleus.ids, torch.cat([nucleus.offsets.new_zeros(given), nucleus.offsets]))
    fields = {
        "advantage": weights * advantage,
        "rollout_logprobs": torch.cat([torch.zeros(given), torch.tensor(completion.rollout_logprobs)]),
    }
    if completion.versions is not None:
        fresh = torch.tensor([float(one == version) for one in completion.versions])
        fields["fresh"] = torch.cat([torch.zeros(given), fresh])
    return TrainSequence(
        token_ids=torch.tensor(completion.prompt_ids + tokens),
        weights=weights,
        fields=fields,
        routes=completion.routes,
        nucleus=nucleus,
    )
