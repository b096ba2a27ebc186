"""Reinforcement learning in pure torch: advantage, loss, aggregation, group filters, schedules.

A published algorithm is a row of options (GrpoLoss unless another module is named):

    algorithm           options
    GRPO (2402.03300)   the defaults; advantage normalise=std, aggregation=sequence_mean
    R1, first RL stage  clip_low=10, clip_high=10 (2501.12948)
    Dr. GRPO            advantage normalise=none, aggregation=fixed_length, kl=none (2503.20783)
    DAPO (2503.14476)   clip_high=0.28, aggregation=token_mean, groups no_signal=resample, kl=none
    GSPO (2507.18071)   ratio=sequence, clip_low=3e-4, clip_high=4e-4, kl=none
    CISPO (2506.13585)  objective=cispo, clip_low=1 or more (no lower bound), aggregation=token_mean, kl=none
    SAPO (2511.20347)   objective=sapo, kl=none
    LUSPO (2602.05261)  as GSPO, with aggregation=sequence_sum
    VESPO (2602.10693)  objective=vespo, aggregation=token_mean, kl=none
    GDPO (2601.05242)   combine=normalise_then_sum, with any of the above
    V3.2 (2512.02556)   kl=k3_weighted, off_policy_threshold=..., advantage normalise=none
    TIS                 rollout_correction=truncate, rollout_cap=2, with any of the above
    MIS                 rollout_correction=mask, rollout_level=sequence, with any but VESPO
"""

from megatron_r1.rl.advantage import advantage_of_parts, group_advantage, has_signal
from megatron_r1.rl.aggregation import token_weights
from megatron_r1.rl.base import LossConfig
from megatron_r1.rl.distillation import reverse_kl_loss
from megatron_r1.rl.losses import GrpoLoss, grpo_loss
from megatron_r1.rl.preference import pair_loss, point_loss

__all__ = [
    "GrpoLoss",
    "LossConfig",
    "advantage_of_parts",
    "group_advantage",
    "grpo_loss",
    "has_signal",
    "pair_loss",
    "point_loss",
    "reverse_kl_loss",
    "token_weights",
]
