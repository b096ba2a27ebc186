"""Group-relative advantage: how good an output is among the outputs of its own question.

Source: DeepSeekMath (2402.03300), section 4.1.2; without the division, Dr. GRPO (2503.20783).
"""

# G groups, N outputs in a group

from typing import Literal

import torch
from torch import Tensor

Normalise = Literal["std", "none"]


def group_advantage(
    rewards: Tensor, *, normalise: Normalise = "std", eps: float = 1e-6, ddof: Literal[0, 1] = 0
) -> Tensor:
    """Reward relative to its group: (r - mean) / (std + eps), or r - mean with normalise="none".

    rewards: [G, N], nan where ungradable: such an output leaves the group's statistics and gets 0.
    Returns [G, N] float32. A group of equal rewards gets exact zeros, so it gives no policy gradient.

    ddof: 0 divides the variance by the number of gradable outputs, 1 by one less (TRL). The paper does
    not say; 0 is the default because its formula takes {r_1 .. r_N} as the whole population, so that
    the advantages of every group have mean square 1. eps only tames rewards that differ by rounding.
    """
    assert rewards.ndim == 2, f"rewards are [groups, group_size], not {list(rewards.shape)}"
    assert not rewards.isinf().any(), "infinite reward"
    rewards = rewards.double()  # differences must survive a large common offset
    graded = ~rewards.isnan()  # [G, N]
    count = graded.sum(dim=1, keepdim=True)  # [G, 1]
    mean = rewards.nansum(dim=1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(graded, rewards - mean, 0.0)
    if normalise == "std":
        variance = centred.square().sum(dim=1, keepdim=True) / (count - ddof).clamp(min=1)
        centred = centred / (variance.sqrt() + eps)
    return torch.where(graded & has_signal(rewards)[:, None], centred, 0.0).float()


def has_signal(rewards: Tensor) -> Tensor:
    """[G] bool: the group has two gradable outputs whose rewards differ. rewards: [G, N], nan: ungradable."""
    graded = ~rewards.isnan()
    highest = torch.where(graded, rewards, -torch.inf).amax(dim=1)
    lowest = torch.where(graded, rewards, torch.inf).amin(dim=1)
    return highest > lowest
