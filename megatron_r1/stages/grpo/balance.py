"""Which replica updates on which outputs: equal counts and near-equal tokens, whoever sampled them.

A replica's own outputs would do, but lengths have a long tail: of 512 outputs of up to 32k tokens the fullest
of eight replicas then has 26 % more tokens than the mean, and the others wait for it in every update.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_r1.data.packing import balance
from megatron_r1.rl.schedules import split_updates
from megatron_r1.types import Nucleus, Replicas, TrainSequence


@dataclass(frozen=True, slots=True)
class Dealt:
    """A step's sequences of this replica, and which of them each update takes."""

    sequences: list[TrainSequence]
    updates: list[list[int]]  # indices into sequences; empty where only other replicas have some


def deal(
    sequences: Sequence[TrainSequence],
    replicas: Replicas,
    *,
    num_updates: int,
    inner_epochs: int,
    seed: int,
    step: int,
    balanced: bool,
) -> Dealt:
    """Mini-batches over all replicas' sequences. A collective call.

    balanced: the members of each update are dealt to the replicas by length (of the first inner epoch: the
    later ones shuffle what the replicas have by then); else each replica keeps what it sampled.
    """
    gathered = replicas.gather([(replicas.index, len(s.token_ids)) for s in sequences])
    holders, lengths = [holder for holder, _ in gathered], [length for _, length in gathered]
    updates = split_updates(len(gathered), num_updates, seed=seed, step=step, inner_epochs=inner_epochs)
    owners = holders
    if balanced and replicas.count > 1:
        owners = owners_of(updates[: len(updates) // inner_epochs], lengths, num_replicas=replicas.count)
    own = [index for index, owner in enumerate(owners) if owner == replicas.index]
    place = {index: number for number, index in enumerate(own)}
    return Dealt(
        _moved(sequences, replicas, holders=holders, owners=owners),
        [[place[index] for index in members if index in place] for members in updates],
    )


def owners_of(updates: Sequence[Sequence[int]], lengths: Sequence[int], *, num_replicas: int) -> list[int]:
    """The replica of each sequence: of every update as many on each replica, within one, of equal length."""
    owners = [0] * len(lengths)
    for members in updates:
        parts = balance([lengths[index] for index in members], num_replicas)
        for owner, part in enumerate(parts):
            for member in part:
                owners[members[member]] = owner
    return owners


def _moved(
    sequences: Sequence[TrainSequence], replicas: Replicas, *, holders: Sequence[int], owners: Sequence[int]
) -> list[TrainSequence]:
    """Those that this replica owns, in the order of all. Only what changes hands travels."""
    if holders == owners:  # on all replicas
        return list(sequences)
    mine = [index for index, holder in enumerate(holders) if holder == replicas.index]
    kept: list[tuple[int, TrainSequence]] = []
    outgoing: list[list[tuple[int, TrainSequence]]] = [[] for _ in range(replicas.count)]
    for index, sequence in zip(mine, sequences, strict=True):
        if owners[index] == replicas.index:
            kept.append((index, sequence))
        else:
            outgoing[owners[index]].append((index, _compact(sequence)))
    received = replicas.exchange(outgoing)
    return [sequence for _, sequence in sorted([*kept, *received], key=lambda pair: pair[0])]


def _compact(sequence: TrainSequence) -> TrainSequence:
    """Without the storage that a slice of all outputs' routes or nuclei would drag along."""
    routes, nucleus = sequence.routes, sequence.nucleus
    return replace(
        sequence,
        routes=None if routes is None else routes.clone(),
        nucleus=None if nucleus is None else Nucleus(nucleus.ids.clone(), nucleus.offsets.clone()),
    )
