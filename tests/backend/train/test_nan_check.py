"""Which tensor a message names, on one rank in this process."""

import pytest
import torch

from megatron_r1.errors import GateError

WIDTH = 2


@pytest.fixture
def model():
    import torch.distributed as dist

    found = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH))
    for parameter in found.parameters():
        parameter.main_grad = torch.zeros_like(parameter)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield found
    dist.destroy_process_group()


def test_finite_numbers_pass(model):
    from megatron_r1.backend.train.nan_check import require_finite_gradient, require_finite_loss

    require_finite_loss([model], update=1, loss=0.5, own_loss=0.5)
    require_finite_gradient([model], update=1, norm=1e30)


def test_a_bad_weight_is_named_before_the_gradients_that_follow_it(model):
    from megatron_r1.backend.train.nan_check import require_finite_loss

    model[1].weight.data[0, 0] = torch.nan
    for parameter in model.parameters():
        parameter.main_grad.fill_(torch.nan)
    with pytest.raises(
        GateError, match=r"update 3 .* the loss is nan; on rank 0, the weight 1\.weight is not .* 4 more"
    ):
        require_finite_loss([model], update=3, loss=float("nan"), own_loss=float("nan"))


def test_a_bad_gradient_is_named_although_the_weights_have_followed(model):
    from megatron_r1.backend.train.nan_check import require_finite_gradient

    model[0].weight.data.fill_(torch.nan)
    model[1].bias.main_grad[1] = torch.inf
    with pytest.raises(
        GateError, match=r"the gradient is inf; on rank 0, the gradient of 1\.bias is not finite"
    ):
        require_finite_gradient([model], update=3, norm=float("inf"))


def test_an_overflowing_sum_is_told_apart(model):
    from megatron_r1.backend.train.nan_check import require_finite_gradient

    with pytest.raises(GateError, match="every weight and gradient is finite, so a sum of them overflowed"):
        require_finite_gradient([model], update=3, norm=float("inf"))
