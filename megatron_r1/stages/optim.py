"""AdamW's constants and the learning rate over a stage."""

import math
from typing import Literal

from pydantic import Field

from megatron_r1.section import Section
from megatron_r1.types import OptimizerOptions

SMALLEST, LARGEST = 1e-30, 1e30  # within float32, in which the optimizer computes


class Optim(Section):
    """AdamW as DeepSeek-V3 has it (section 4.2), unless said otherwise."""

    lr: float = Field(gt=0, le=LARGEST)
    """The highest learning rate."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate rises linearly from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: held for hold_share of the steps, then a cosine down to final_share of the rate."""
    hold_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps before the cosine begins."""
    final_share: float = Field(default=0.1, ge=0, le=1)
    """The last rate relative to the highest (R1's SFT: one tenth)."""
    weight_decay: float = Field(default=0.1, ge=0, le=10)
    """Decoupled weight decay."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the mean of squared gradients."""
    epsilon: float = Field(default=1e-8, ge=SMALLEST, le=1)
    """Added to the root of the squared mean."""
    clip_grad: float = Field(default=1.0, ge=SMALLEST, le=LARGEST)
    """Largest norm of the gradient."""

    def warnings(self, steps: int) -> list[str]:
        """What will run but is likely not meant. steps: of the stage; 0: not known."""
        found = []
        if self.lr > 1:
            found.append(
                f"optim.lr: {self.lr:g} moves every weight by more than 1 a step; write 3e-6 for 0.000003"
            )
        if 0 < steps < self.warmup_steps:
            found.append(
                f"optim.warmup_steps: {self.warmup_steps}, and the stage has {steps} steps, so the rate "
                f"never comes to {self.lr:g}; lower it"
            )
        return found

    def options(self) -> OptimizerOptions:
        return OptimizerOptions(
            weight_decay=self.weight_decay,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            clip_grad=self.clip_grad,
        )

    def lr_at(self, step: int, total: int) -> float:
        """The rate of step `step` (from 0) of `total`."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "constant":
            return self.lr * warm
        held = self.hold_share * total
        done = max(0.0, step - held) / max(1.0, total - held)
        cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return self.lr * warm * (self.final_share + (1 - self.final_share) * cosine)
