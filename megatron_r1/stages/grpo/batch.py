"""From scored outputs to sequences to train on."""

import math
from collections.abc import Mapping, Sequence

import torch

from megatron_r1.rl.advantage import Normalise, advantage_of_parts, group_advantage
from megatron_r1.types import Completion, LossInput, LossInputs, Nucleus, Replicas, Scored, TrainSequence


def graded_sequences(
    scored: Sequence[Scored], advantages: Sequence[float], *, version: int
) -> list[TrainSequence]:
    """One for each output that could be graded; the others are left out of the update.

    Weight 1 marks the tokens of the output until the update's weights are known; the loss inputs are its
    advantage and the rollout's log-probs, and where a rollout is ahead of training, which tokens the policy
    drew as it is. version: the policy's.
    """
    return [
        _sequence(output.completion, advantage, version)
        for output, advantage in zip(scored, advantages, strict=True)
        if output.reward is not None
    ]


def advantages_of(
    scored: Sequence[Scored],
    replicas: Replicas,
    *,
    group_size: int,
    normalise: Normalise,
    apart: Mapping[str, float] | None = None,
) -> list[float]:
    """Of each output; a collective call. scored: this replica's whole groups in a row.

    apart: the rewards' weights, where each reward is normalised for itself before the sum (GDPO); None: the
    sum is normalised.
    """
    names = [""] if apart is None else list(apart)
    mine = [[_judged(output, name) for name in names] for output in scored]
    first, everyone = 0, mine
    if normalise == "batch" or apart is not None:  # the batch is that of all replicas
        first = sum(replicas.gather([len(mine)])[: replicas.index])
        everyone = replicas.gather(mine)
    values = torch.tensor(everyone, dtype=torch.double).view(-1, group_size, len(names))
    if apart is None:
        found = group_advantage(values[..., 0], normalise=normalise)
    else:
        found = advantage_of_parts(values, torch.tensor(list(apart.values()), dtype=torch.double))
    return found.flatten()[first : first + len(mine)].tolist()


def _judged(output: Scored, name: str) -> float:
    """The reward of this name, or the sum; nan where it doesn't judge, or the output can't be graded."""
    value = output.reward
    if name and value is not None:
        value = output.parts[name].value if name in output.parts else None
    return math.nan if value is None else value


def idle_sequence(eos_id: int, *, loss_inputs: Sequence[LossInput]) -> TrainSequence:
    """What a replica runs while only the others have outputs: it takes part and adds nothing.

    Its one input is padding: no router counts it, and neither do losses and metrics.
    """
    return TrainSequence(
        token_ids=torch.full((2,), eos_id),
        weights=torch.zeros(2),
        loss_inputs=LossInputs.zeros(loss_inputs, 2),
        padding=1,
    )


def _sequence(completion: Completion, advantage: float, version: int) -> TrainSequence:
    given, tokens = len(completion.prompt_ids), completion.token_ids
    weights = torch.cat([torch.zeros(given), torch.ones(len(tokens))])
    trace = completion.trace
    nucleus = trace.nucleus
    if nucleus is not None:  # the prompt was not drawn
        nucleus = Nucleus(nucleus.ids, torch.cat([nucleus.offsets.new_zeros(given), nucleus.offsets]))
    fresh = None
    if trace.versions is not None:
        drawn_now = torch.tensor([float(one == version) for one in trace.versions])
        fresh = torch.cat([torch.zeros(given), drawn_now])
    return TrainSequence(
        token_ids=torch.tensor(completion.prompt_ids + tokens),
        weights=weights,
        loss_inputs=LossInputs(
            advantages=weights * advantage,
            rollout_logprobs=torch.cat([torch.zeros(given), torch.tensor(completion.rollout_logprobs)]),
            fresh=fresh,
        ),
        routes=trace.routes,
        nucleus=nucleus,
    )
