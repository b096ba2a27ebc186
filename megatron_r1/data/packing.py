"""Sequence packing: joins sequences into packs without padding between them, and unpacks results.

A sequence of S tokens has S - 1 inputs, each predicting the next token. Packs are filled by best fit, longest
sequences first (DeepSeek-R1, appendix B.1); cu_seqlens keeps attention within a sequence. `windows` is
DeepSeek-V3's way for pretraining: documents concatenated and cut every seq_length tokens, without a mask.
"""

# S tokens of one sequence, T tokens of a pack, N sequences in a pack

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_r1.errors import DataError
from megatron_r1.types import LossInput, LossInputs, Nucleus, PackedBatch, TrainSequence

PAD_TOKEN = 0  # any valid id works: its weight is 0 and nothing attends to it


@dataclass(frozen=True, slots=True)
class Place:
    """A sequence's place: inputs start .. start + length of a pack."""

    pack: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Packing:
    """The packs, and each sequence's place in them, in the order of the given sequences."""

    batches: list[PackedBatch]
    places: list[Place]

    def unpack(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Per-label values of each pack ([T], in pack order) as one [S] per sequence, in the order given.

        The first element is 0, as nothing predicts the first token.
        """
        assert len(values) >= len(self.batches)
        result = []
        for place in self.places:
            whole = values[place.pack].new_zeros(place.length + 1)
            whole[1:] = values[place.pack][place.start : place.start + place.length]
            result.append(whole)
        return result


def train_sequence(
    prompt_ids: Sequence[int], response_ids: Sequence[int], *, prompt_weight: float = 0.0
) -> TrainSequence:
    """A training sequence: weight 1 on the response, `prompt_weight` on the prompt."""
    # building from lists is three times as fast as filling tensors, for short sequences
    weights = [prompt_weight] * len(prompt_ids) + [1.0] * len(response_ids)
    weights[0] = 0.0
    token_ids = torch.tensor([*prompt_ids, *response_ids], dtype=torch.long)
    return TrainSequence(token_ids, torch.tensor(weights, dtype=torch.float32))


def pack(sequences: Sequence[TrainSequence], *, max_tokens: int, multiple: int = 8) -> Packing:
    """Best-fit packs of at most max_tokens inputs, each padded at the end to a multiple of `multiple`.

    The padding is a further sequence of weight 0. Packing is deterministic.
    """
    if max_tokens % multiple:
        raise DataError(f"tokens_per_pack {max_tokens} is not a multiple of {multiple}; "
                        f"take {max_tokens // multiple * multiple or multiple}")  # fmt: skip
    lengths = [len(sequence.token_ids) - 1 for sequence in sequences]
    for index, length in enumerate(lengths):
        assert length > 0, "a sequence needs two tokens to predict one"
        if length > max_tokens:
            raise DataError(
                f"sequence {index} has {length} inputs, above tokens_per_pack = {max_tokens}; "
                "raise it or shorten the sequences"
            )
    bins = _best_fit(lengths, capacity=max_tokens)
    places: list[Place | None] = [None] * len(sequences)
    for pack_index, members in enumerate(bins):
        start = 0
        for member in members:
            places[member] = Place(pack_index, start, lengths[member])
            start += lengths[member]
    batches = [_join([sequences[i] for i in members], multiple=multiple) for members in bins]
    return Packing(batches, [place for place in places if place is not None])


def _best_fit(lengths: Sequence[int], *, capacity: int) -> list[list[int]]:
    """Longest first, each into the fullest bin with room for it; members keep their original order."""
    bins: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (space left, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        found = bisect_left(spaces, (lengths[index], -1))
        if found == len(spaces):
            bins.append([])
            space, chosen = capacity, len(bins) - 1
        else:
            space, chosen = spaces.pop(found)
        bins[chosen].append(index)
        insort(spaces, (space - lengths[index], chosen))
    return [sorted(members) for members in bins]


def _join(sequences: Sequence[TrainSequence], *, multiple: int) -> PackedBatch:
    lengths = [len(sequence.token_ids) - 1 for sequence in sequences]
    padding = -sum(lengths) % multiple
    if padding:
        sequences = [*sequences, _blank(padding, like=sequences[0])]
        lengths.append(padding)
    first = sequences[0]
    assert all(s.loss_inputs.names == first.loss_inputs.names for s in sequences), "loss inputs differ"
    assert all((s.routes is None) == (first.routes is None) for s in sequences), "only some carry routes"
    assert all((s.nucleus is None) == (first.nucleus is None) for s in sequences), "only some carry nuclei"
    positions = torch.arange(max(lengths))
    tokens, padding = torch.cat([s.token_ids[:-1] for s in sequences]), _cat_padding(sequences)
    if padding is not None:  # the first padding input is the sequence's last label, which MTP must not read
        tokens = tokens.masked_fill(padding, PAD_TOKEN)
    return PackedBatch(
        tokens=tokens,
        labels=torch.cat([s.token_ids[1:] for s in sequences]),
        weights=torch.cat([s.weights[1:] for s in sequences]),
        positions=torch.cat([positions[:length] for length in lengths]),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        loss_inputs=_cat_loss_inputs(sequences),
        routes=None if first.routes is None else _cat_routes(sequences),
        nucleus=None if first.nucleus is None else _cat_nuclei(sequences),
        padding=padding,
    )


def _cat_loss_inputs(sequences: Sequence[TrainSequence]) -> LossInputs:
    def joined(name: LossInput) -> Tensor:
        return torch.cat([s.loss_inputs.required(name)[1:] for s in sequences])

    return LossInputs(**{name: joined(name) for name in sequences[0].loss_inputs.names})


def _cat_padding(sequences: Sequence[TrainSequence]) -> Tensor | None:
    if not any(s.padding for s in sequences):
        return None
    inputs = [len(s.token_ids) - 1 for s in sequences]
    return torch.cat([torch.arange(n) >= n - s.padding for n, s in zip(inputs, sequences, strict=True)])


def _cat_routes(sequences: Sequence[TrainSequence]) -> Tensor:
    return torch.cat([s.routes for s in sequences if s.routes is not None])


def _cat_nuclei(sequences: Sequence[TrainSequence]) -> Nucleus:
    nuclei = [s.nucleus for s in sequences if s.nucleus is not None]
    assert all(n.offsets[1] == 0 for n in nuclei), "the first token is given, never drawn"
    counts = torch.cat([n.offsets.diff()[1:] for n in nuclei])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Nucleus(ids=torch.cat([n.ids for n in nuclei]), offsets=offsets)


def _blank(num_inputs: int, *, like: TrainSequence) -> TrainSequence:
    """Padding of weight 0, with the same loss inputs and routes as `like`."""
    routes = None
    if like.routes is not None:
        # a router that replays routes expects top_k different experts
        routes = torch.arange(like.routes.shape[2], dtype=like.routes.dtype)
        routes = routes.expand(num_inputs, like.routes.shape[1], -1)
    nucleus = None
    if like.nucleus is not None:
        nucleus = Nucleus(like.nucleus.ids[:0], like.nucleus.offsets.new_zeros(num_inputs + 2))
    return TrainSequence(
        token_ids=torch.full((num_inputs + 1,), PAD_TOKEN, dtype=torch.long),
        weights=torch.zeros(num_inputs + 1),
        loss_inputs=like.loss_inputs.each(lambda values: values.new_zeros(num_inputs + 1)),
        routes=routes,
        nucleus=nucleus,
        padding=num_inputs,
    )


def pad_packs(packs: Sequence[PackedBatch], count: int, *, multiple: int = 8) -> list[PackedBatch]:
    """Add packs of padding until there are `count`: all data-parallel ranks must run equally many."""
    assert len(packs) <= count, f"{len(packs)} packs, asked to pad to {count}"
    example = TrainSequence(torch.zeros(0), torch.zeros(0))
    if packs:
        first = packs[0]
        example = TrainSequence(first.tokens, first.weights, first.loss_inputs, first.routes, first.nucleus)
    empty = _join([_blank(multiple, like=example)], multiple=multiple)
    return [*packs, *[empty] * (count - len(packs))]


def balance(lengths: Sequence[int], num_parts: int) -> list[list[int]]:
    """Distribute indices over parts: counts differ by at most one, total lengths are nearly equal.

    The indices go out longest first, num_parts a round; in each round the part with the smallest total gets
    the longest.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    totals = [0] * num_parts
    for first in range(0, len(order), num_parts):
        ranked = sorted(range(num_parts), key=lambda p: (totals[p], p))
        for part, index in zip(ranked, order[first : first + num_parts], strict=False):
            parts[part].append(index)
            totals[part] += lengths[index]
    return [sorted(part) for part in parts]


def windows(documents: Sequence[TrainSequence], *, seq_length: int) -> list[TrainSequence]:
    """Concatenated documents, cut to windows of seq_length inputs, with no mask between documents (V3, 4.1).

    The last label of a window is also the first input of the next one, so that every token is predicted once.
    The first token of a document keeps weight 0. The last window may be shorter.
    """
    assert all(not d.loss_inputs.names and d.routes is None for d in documents), (
        "windows carry tokens and weights only"
    )
    tokens, weights = _concat(documents, lambda d: d.token_ids), _concat(documents, lambda d: d.weights)
    cuts = []
    for start in range(0, len(tokens) - 1, seq_length):
        window = weights[start : start + seq_length + 1].clone()
        window[0] = 0.0
        cuts.append(TrainSequence(tokens[start : start + seq_length + 1], window))
    return cuts


def _concat(documents: Sequence[TrainSequence], part: Callable[[TrainSequence], Tensor]) -> Tensor:
    return torch.cat([part(document) for document in documents]) if documents else torch.zeros(0)
