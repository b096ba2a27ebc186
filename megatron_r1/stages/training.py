"""What every stage that changes the weights has in its section: the optimizer, checkpoints, an export."""

import math
from typing import Annotated, Literal

from pydantic import Field

from megatron_r1.config.spelling import MOST_STEPS, MOST_TOKENS_PER_PACK
from megatron_r1.data.mixture import Mixture
from megatron_r1.errors import DataError
from megatron_r1.section import NO_EFFECT, Section
from megatron_r1.stages.base import StageConfig
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


class Export(Section):
    """The stage's result as Hugging Face's files: `export: {}` takes all defaults."""

    to: str | None = None
    """The directory; null: huggingface in the stage's own. One of an earlier export is replaced."""
    dtype: Literal["bf16", "fp32", "fp16"] | None = None
    """Number format of the files; null: that of the files that the weights came from, or of the training."""
    fp8: bool = False
    """Linear weights as FP8 blocks of 128 x 128, as DeepSeek-V3 is released."""
    max_shard_size: str = Field(default="5GB", pattern=r"^(0*[1-9]\d*(\.\d+)?|0*\.\d*[1-9]\d*)\s*([KMG]i?B)$")
    """The most bytes of a file: 5GB, 200MB, 1GiB."""


class TrainingStage(StageConfig):
    """Base of the stages that train: they leave a checkpoint."""

    steps: int = Field(ge=1, le=MOST_STEPS)
    """Steps of the stage."""
    optim: Optim
    """The optimizer."""
    tokens_per_pack: int = Field(default=8192, ge=8, le=MOST_TOKENS_PER_PACK, multiple_of=8)
    """The most tokens of one micro-batch on a rank."""
    checkpoint_every: Annotated[int, NO_EFFECT] = Field(default=50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, NO_EFFECT] = Field(default=2, ge=1)
    """Newest checkpoints that are kept while the stage runs; a finished stage keeps its last."""
    export: Annotated[Export | None, NO_EFFECT] = None
    """Write the result as Hugging Face's files too."""

    @property
    def makes_data(self) -> bool:
        return False


def steps_of_epochs(data: Mixture, *, epochs: float | None, examples: int, stage: str) -> int:
    """Steps of so many examples that go through the data so often. DataError where it has no end."""
    assert epochs is not None, "a section has steps or epochs"
    if data.size is None:
        raise DataError(f"stage {stage}: epochs: the data is endless, so it has no epoch; give `steps`")
    return math.ceil(epochs * data.size / examples)
