"""Group-relative advantage: how good an output is among the outputs of its own question.

Source: DeepSeekMath (2402.03300), section 4.1.2; without the division, Dr. GRPO (2503.20783); divided by the
batch's standard deviation, REINFORCE++ (2501.03262) and "Tricks or Traps" (2508.08221); each reward for
itself, GDPO (2601.05242).
"""

# G groups, N outputs in a group, K rewards

from typing import Literal

import torch
from torch import Tensor

Normalise = Literal["std", "batch", "none"]
Ddof = Literal[0, 1]


def group_advantage(
    rewards: Tensor, *, normalise: Normalise = "std", eps: float = 1e-6, ddof: Ddof = 0
) -> Tensor:
    """Reward relative to its group: (r - mean) / (std + eps), or r - mean with normalise="none".

    rewards: [G, N], nan where ungradable: such an output leaves the group's statistics and gets 0.
    Returns [G, N] float32. A group of equal rewards gets exact zeros, so it gives no policy gradient.
    normalise="batch" divides by the standard deviation of all gradable rewards given, not of the group's.

    ddof: 0 divides the variance by the number of gradable outputs, 1 by one less (TRL). The paper does
    not say; 0 is the default because its formula takes {r_1 .. r_N} as the whole population, so that
    the advantages of every group have mean square 1. eps only tames rewards that differ by rounding.
    """
    assert rewards.ndim == 2, f"rewards are [groups, group_size], not {list(rewards.shape)}"
    assert not rewards.isinf().any(), "infinite reward"
    rewards = rewards.double()  # differences must survive a large common offset
    graded = ~rewards.isnan()  # [G, N]
    centred, std = _centred(rewards, ddof=ddof)
    if normalise == "batch":
        std = _centred(rewards.flatten()[None], ddof=ddof)[1]
    if normalise != "none":
        centred = centred / (std + eps)
    return torch.where(graded & has_signal(rewards)[:, None], centred, 0.0).float()


def advantage_of_parts(parts: Tensor, weights: Tensor, *, eps: float = 1e-6, ddof: Ddof = 0) -> Tensor:
    """GDPO: each reward relative to its group, their weighted sum relative to the batch (2601.05242, 3.1).

    parts: [G, N, K], nan where a reward judges not; an output without any gets 0. weights: [K].
    Returns [G, N] float32.
    """
    each = [group_advantage(part, eps=eps, ddof=ddof) for part in parts.unbind(dim=2)]
    total = (torch.stack(each, dim=2).double() * weights).sum(dim=2)  # [G, N]
    graded = ~parts.isnan().all(dim=2)
    centred, std = _centred(torch.where(graded, total, torch.nan).flatten()[None], ddof=ddof)
    return torch.where(graded, (centred / (std + eps)).view(total.shape), 0.0).float()


def has_signal(rewards: Tensor) -> Tensor:
    """[G] bool: the group has two gradable outputs whose rewards differ. rewards: [G, N], nan: ungradable."""
    graded = ~rewards.isnan()
    highest = torch.where(graded, rewards, -torch.inf).amax(dim=1)
    lowest = torch.where(graded, rewards, torch.inf).amin(dim=1)
    return highest > lowest


def _centred(rewards: Tensor, *, ddof: Ddof) -> tuple[Tensor, Tensor]:
    """[G, N] r - mean, 0 where nan, and [G, 1] std, both of each row's values that aren't nan."""
    graded = ~rewards.isnan()
    count = graded.sum(dim=1, keepdim=True)  # [G, 1]
    mean = rewards.nansum(dim=1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(graded, rewards - mean, 0.0)
    variance = centred.square().sum(dim=1, keepdim=True) / (count - ddof).clamp(min=1)
    return centred, variance.sqrt()
