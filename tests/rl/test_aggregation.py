import pytest

from megatron_r1.rl.aggregation import token_weights

LENGTHS = [1, 2, 5]
UPDATE = {"num_outputs": 3, "num_tokens": 8, "max_length": 10}


def objective(losses: list[list[float]], **options) -> float:
    weights = token_weights([len(row) for row in losses], **options)
    return sum(weight * sum(row) for weight, row in zip(weights, losses, strict=True))


def test_sequence_mean_by_hand():
    assert token_weights(LENGTHS, aggregation="sequence_mean", **UPDATE) == pytest.approx(
        [1 / 3, 1 / 6, 1 / 15]
    )


def test_token_mean_by_hand():
    assert token_weights(LENGTHS, aggregation="token_mean", **UPDATE) == pytest.approx([1 / 8] * 3)


def test_fixed_length_by_hand():
    assert token_weights(LENGTHS, aggregation="fixed_length", **UPDATE) == pytest.approx([1 / 30] * 3)


def test_sequence_sum_by_hand():
    assert token_weights(LENGTHS, aggregation="sequence_sum", **UPDATE) == pytest.approx([1 / 3] * 3)


def test_the_weighted_sum_is_each_papers_objective():
    losses = [[4.0], [1.0, 3.0], [0.0, 0.0, 0.0, 0.0, 10.0]]
    assert objective(losses, aggregation="sequence_mean", **UPDATE) == pytest.approx((4 + 2 + 2) / 3)
    assert objective(losses, aggregation="token_mean", **UPDATE) == pytest.approx(18 / 8)
    assert objective(losses, aggregation="fixed_length", **UPDATE) == pytest.approx(18 / 10 / 3)


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "fixed_length", "sequence_sum"])
def test_the_objective_does_not_depend_on_how_outputs_are_spread_over_ranks(aggregation):
    losses = [[4.0], [1.0, 3.0], [0.0, 0.0, 0.0, 0.0, 10.0]]
    together = objective(losses, aggregation=aggregation, **UPDATE)
    apart = sum(objective([row], aggregation=aggregation, **UPDATE) for row in losses)
    assert apart == pytest.approx(together)


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "fixed_length", "sequence_sum"])
def test_an_empty_output_has_no_weight(aggregation):
    weights = token_weights([0, 3], aggregation=aggregation, num_outputs=2, num_tokens=3, max_length=4)
    assert weights[0] == 0
    assert weights[1] > 0


def test_normalisers_of_a_single_rank_are_refused():
    with pytest.raises(AssertionError, match="num_outputs=2"):
        token_weights(LENGTHS, aggregation="sequence_mean", num_outputs=2, num_tokens=8, max_length=10)
