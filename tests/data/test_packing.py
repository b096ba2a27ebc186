import itertools
import random
from dataclasses import replace

import pytest
import torch

from megatron_r1.data.packing import balance, pack, pad_packs, train_sequence, windows
from megatron_r1.errors import DataError
from megatron_r1.types import LossInputs, Nucleus, TrainSequence


def sequence(first, length, *, routes=False):
    ids = torch.arange(first, first + length)
    weights = torch.full((length,), 1.0)
    weights[0] = 0
    return TrainSequence(
        ids,
        weights,
        LossInputs(advantages=ids * 0.5),
        ids[:-1, None, None].expand(-1, 2, 3) if routes else None,
    )


def test_two_sequences_lie_as_worked_by_hand():
    packing = pack([sequence(10, 4), sequence(20, 3)], max_tokens=8)
    (batch,) = packing.batches
    assert batch.tokens.tolist() == [10, 11, 12, 20, 21, 0, 0, 0]
    assert batch.labels.tolist() == [11, 12, 13, 21, 22, 0, 0, 0]
    assert batch.weights.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert batch.cu_seqlens.tolist() == [0, 3, 5, 8]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.loss_inputs.required("advantages").tolist() == [5.5, 6, 6.5, 10.5, 11, 0, 0, 0]


def test_best_fit_fills_two_packs_where_first_fit_in_order_needs_three():
    packing = pack([sequence(100 * i, n + 1) for i, n in enumerate([8, 16, 8, 16, 16])], max_tokens=32)
    assert [len(b.tokens) for b in packing.batches] == [32, 32]
    assert [p.pack for p in packing.places] == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("seed", range(20))
def test_every_token_appears_once_with_its_own_successor(seed):
    rng = random.Random(seed)
    max_tokens = rng.choice([16, 40, 64])
    sequences = [sequence(1000 * (i + 1), rng.randint(2, max_tokens + 1), routes=seed % 2 == 0)
                 for i in range(rng.randint(1, 60))]  # fmt: skip
    packing = pack(sequences, max_tokens=max_tokens)
    seen = []
    for batch in packing.batches:
        size = len(batch.tokens)
        assert size <= max_tokens
        assert size % 8 == 0
        assert batch.cu_seqlens[0] == 0
        assert batch.cu_seqlens[-1] == size
        bounds = batch.cu_seqlens.tolist()
        for start, end in itertools.pairwise(bounds):
            assert batch.positions[start:end].tolist() == list(range(end - start))
            if batch.tokens[start] == 0:
                assert end == size
                assert batch.weights[start:end].tolist() == [0.0] * (end - start)
                continue
            tokens = batch.tokens[start:end].tolist()
            assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))  # one sequence, not two
            assert batch.labels[start:end].tolist() == [t + 1 for t in tokens]
            assert batch.loss_inputs.required("advantages")[start:end].tolist() == [
                (t + 1) / 2 for t in tokens
            ]
            if batch.routes is not None:
                assert batch.routes[start:end, 1, 2].tolist() == tokens
            seen += tokens
    assert sorted(seen) == sorted(t for s in sequences for t in s.token_ids[:-1].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_unpacking_gives_each_sequence_its_values_in_the_order_given(seed):
    rng = random.Random(seed)
    sequences = [sequence(1000 * i, rng.randint(2, 30)) for i in range(25)]
    packing = pack(sequences, max_tokens=32)
    unpacked = packing.unpack([batch.labels for batch in packing.batches])
    for original, values in zip(sequences, unpacked, strict=True):
        assert values.tolist() == [0, *original.token_ids[1:].tolist()]


def test_padding_routes_name_different_experts():
    (batch,) = pack([sequence(10, 4, routes=True)], max_tokens=8).batches
    assert batch.routes.shape == (8, 2, 3)
    assert batch.routes[3:].tolist() == [[[0, 1, 2]] * 2] * 5


def test_padding_is_marked_and_reads_no_label():
    cut = replace(sequence(10, 4), token_ids=torch.tensor([10, 11, 12, 13, 0, 0]), weights=torch.zeros(6),
                  loss_inputs=LossInputs(advantages=torch.zeros(6)), padding=2)  # fmt: skip
    (batch,) = pack([cut], max_tokens=8).batches
    assert batch.tokens.tolist() == [10, 11, 12, 0, 0, 0, 0, 0]  # 13 is a label only
    assert batch.labels[:3].tolist() == [11, 12, 13]
    assert batch.padding.tolist() == [False] * 3 + [True] * 5
    assert batch.num_tokens == 3
    (full,) = pack([sequence(10, 9)], max_tokens=8).batches
    assert full.padding is None
    assert full.num_tokens == 8


def test_too_long_a_sequence_and_an_odd_limit_are_refused_with_numbers():
    with pytest.raises(DataError, match="sequence 1 has 17 inputs, above tokens_per_pack = 16"):
        pack([sequence(0, 3), sequence(0, 18)], max_tokens=16)
    with pytest.raises(DataError, match="tokens_per_pack 20 is not a multiple of 8; take 16"):
        pack([sequence(0, 3)], max_tokens=20)


def test_empty_packs_weigh_nothing_and_carry_the_same_loss_inputs():
    packs = pack([sequence(10, 4, routes=True)], max_tokens=8).batches
    padded = pad_packs(packs, 3)
    assert len(padded) == 3
    assert padded[0] is packs[0]
    empty = padded[2]
    assert empty.weights.tolist() == [0.0] * 8
    assert empty.cu_seqlens.tolist() == [0, 8]
    assert empty.loss_inputs.names == packs[0].loss_inputs.names == ["advantages"]
    assert empty.routes.shape == (8, 2, 3)
    (alone,) = pad_packs([], 1)
    assert (alone.tokens.tolist(), alone.loss_inputs.names) == ([0] * 8, [])
    assert pack([], max_tokens=8).batches == []


@pytest.mark.parametrize("seed", range(5))
def test_balance_deals_equal_counts_and_near_equal_totals(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 100) for _ in range(67)]
    parts = balance(lengths, 4)
    assert sorted(i for part in parts for i in part) == list(range(67))
    assert sorted(map(len, parts)) == [16, 17, 17, 17]
    totals = [sum(lengths[i] for i in part) for part in parts]
    assert max(totals) - min(totals) <= max(lengths)


def test_balance_by_hand():
    assert balance([9, 1, 8, 2], 2) == [[0, 1], [2, 3]]
    assert balance([5], 2) == [[0], []]


def test_windows_share_one_token_and_predict_each_token_once():
    documents = [train_sequence([1, 2], [3, 4], prompt_weight=0.5), train_sequence([5], [6, 7])]
    first, second = windows(documents, seq_length=4)
    assert first.token_ids.tolist() == [1, 2, 3, 4, 5]
    assert first.weights.tolist() == [0, 0.5, 1, 1, 0]  # 5 begins a document: not predicted
    assert second.token_ids.tolist() == [5, 6, 7]
    assert second.weights.tolist() == [0, 1, 1]
    assert windows([], seq_length=4) == []
    packing = pack([first, second], max_tokens=8, multiple=2)
    assert sum(batch.weights.sum().item() for batch in packing.batches) == 4.5


def test_prompt_tokens_get_their_own_weight_and_the_first_none():
    weights = train_sequence([1, 2, 3], [4, 5], prompt_weight=0.25).weights
    assert weights.tolist() == [0, 0.25, 0.25, 1, 1]


def nucleus(*lists):
    counts = torch.tensor([0, *map(len, lists)])
    ids = [token for each in lists for token in each]
    return Nucleus(torch.tensor(ids, dtype=torch.int32), counts.cumsum(0))


def test_nuclei_lie_with_the_labels_that_were_drawn_from_them():
    first = TrainSequence(torch.tensor([3, 4, 5]), torch.ones(3), nucleus=nucleus([], [], [5, 6]))
    second = TrainSequence(torch.tensor([7, 8]), torch.ones(2), nucleus=nucleus([], [8]))
    (batch,) = pack([first, second], max_tokens=8).batches
    assert batch.labels.tolist()[:3] == [4, 5, 8]
    # label 4 was given, 5 was drawn from {5, 6}, 8 from {8}; five of padding
    assert batch.nucleus.offsets.tolist() == [0, 0, 2, 3, 3, 3, 3, 3, 3]
    assert batch.nucleus.ids.tolist() == [5, 6, 8]


def test_packs_of_padding_have_empty_nuclei():
    packs = pack([TrainSequence(torch.tensor([7, 8]), torch.ones(2), nucleus=nucleus([], [8]))], max_tokens=8)
    *_, empty = pad_packs(packs.batches, 2)
    assert empty.nucleus.offsets.tolist() == [0] * 9
