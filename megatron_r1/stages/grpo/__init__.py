"""The grpo stage: rollouts, rewards and updates of group-relative policy optimisation."""

from megatron_r1.stages.grpo.trainer import STAGE

__all__ = ["STAGE"]
