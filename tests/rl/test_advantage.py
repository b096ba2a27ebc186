import pytest
import torch

from megatron_r1.rl.advantage import advantage_of_parts, group_advantage, has_signal

NAN = torch.nan


def test_one_right_of_four_by_hand():
    # mean 1/4, population variance 3/16: (3/4) / (sqrt(3)/4) = sqrt(3), (-1/4) / (sqrt(3)/4) = -1/sqrt(3)
    advantage = group_advantage(torch.tensor([[1.0, 0, 0, 0]]))
    expected = torch.tensor([[3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]])
    torch.testing.assert_close(advantage, expected, rtol=0, atol=1e-5)
    assert advantage.dtype == torch.float32


def test_the_unbiased_std_by_hand():
    # mean 2, unbiased variance (1 + 0 + 1) / 2 = 1
    advantage = group_advantage(torch.tensor([[1.0, 2, 3]]), ddof=1, eps=0.0)
    torch.testing.assert_close(advantage, torch.tensor([[-1.0, 0, 1]]))


def test_without_std_the_advantage_is_the_distance_from_the_mean():
    rewards = torch.tensor([[1.0, 0, 0, 0], [3.0, 1, 1, 3]])
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25], [1.0, -1, -1, 1]])
    torch.testing.assert_close(group_advantage(rewards, normalise="none"), expected)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, -2.7, 1e6 + 0.1])
@pytest.mark.parametrize("normalise", ["std", "none"])
def test_equal_rewards_give_exact_zeros(reward, normalise):
    # the mean of equal floats need not equal them, and no eps helps where both are of rounding size
    rewards = torch.full((1, 7), reward, dtype=torch.float64)
    assert group_advantage(rewards, normalise=normalise, eps=0.0).tolist() == [[0.0] * 7]


def test_rewards_that_differ_by_rounding_give_almost_nothing():
    rewards = torch.tensor([[0.3, 0.1 + 0.2, 0.3, 0.3]], dtype=torch.float64)
    assert rewards[0, 0] != rewards[0, 1]
    assert group_advantage(rewards).abs().max() < 1e-6


def test_an_ungradable_output_leaves_the_statistics_and_gets_zero():
    rewards = torch.tensor([[1.0, NAN, 3.0, NAN]])  # of the two: mean 2, std 1
    torch.testing.assert_close(group_advantage(rewards, eps=0.0), torch.tensor([[-1.0, 0, 1, 0]]))


@pytest.mark.parametrize("ddof", [0, 1])
def test_fewer_than_two_gradable_outputs_give_zeros(ddof):
    rewards = torch.tensor([[NAN, NAN, NAN], [NAN, 5.0, NAN]])
    assert group_advantage(rewards, ddof=ddof).tolist() == [[0.0] * 3, [0.0] * 3]


def test_divided_by_the_batch_s_std_groups_keep_their_spread():
    rewards = torch.tensor([[0.0, 10.0], [2.0, 2.0], [4.0, 6.0]])
    std = rewards.std(correction=0)
    expected = torch.tensor([[-5.0, 5.0], [0.0, 0.0], [-1.0, 1.0]]) / std
    assert torch.allclose(group_advantage(rewards, normalise="batch"), expected, atol=1e-5)


def test_each_reward_for_itself_gives_a_small_one_its_say():
    parts = torch.tensor([[[0.0, 0.01], [1.0, 0.02]], [[1.0, 0.0], [0.0, torch.nan]]])
    found = advantage_of_parts(parts, torch.tensor([1.0, 1.0]))
    # the second reward of the second group judges one output, so it says nothing: totals -2, 2, 1, -1
    expected = torch.tensor([[-2.0, 2.0], [1.0, -1.0]]) / 2.5**0.5
    assert torch.allclose(found, expected, atol=1e-3)
    nothing = advantage_of_parts(parts.fill_(torch.nan), torch.tensor([1.0, 1.0]))
    assert torch.equal(nothing, torch.zeros(2, 2))


def test_groups_do_not_influence_each_other():
    rewards = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([group_advantage(row[None]) for row in rewards])
    torch.testing.assert_close(group_advantage(rewards), alone, rtol=0, atol=0)


def test_the_advantage_ignores_scale_and_offset_of_the_rewards():
    rewards = torch.rand(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(group_advantage(rewards), group_advantage(10 * rewards - 4), rtol=0, atol=1e-4)
    torch.testing.assert_close(group_advantage(rewards).sum(dim=1), torch.zeros(3), rtol=0, atol=1e-5)


def test_a_large_offset_of_float32_rewards_costs_no_precision():
    rewards = torch.tensor([[1e7 + 1] + [1e7] * 15])
    assert group_advantage(rewards)[0, 0].item() == pytest.approx(15**0.5, abs=1e-4)


def test_an_infinite_reward_is_refused():
    with pytest.raises(AssertionError, match="infinite"):
        group_advantage(torch.tensor([[1.0, torch.inf]]))


def test_signal_needs_two_gradable_rewards_that_differ():
    rewards = torch.tensor([[1.0, 0, NAN], [1.0, 1, NAN], [1.0, NAN, NAN], [NAN, NAN, NAN]])
    assert has_signal(rewards).tolist() == [True, False, False, False]
