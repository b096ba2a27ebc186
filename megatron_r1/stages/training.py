"""What every stage that changes the weights has in its section."""

import math
from typing import Literal

from pydantic import Field

from megatron_r1.config.spelling import MOST_STEPS, MOST_TOKENS_PER_PACK
from megatron_r1.data.mixture import Mixture
from megatron_r1.errors import DataError
from megatron_r1.section import Section
from megatron_r1.stages.base import StageConfig
from megatron_r1.stages.optim import Optim


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
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept while the stage runs; a finished stage keeps its last."""
    export: Export | None = None
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
