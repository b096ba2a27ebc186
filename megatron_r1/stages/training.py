"""What every stage that changes the weights has in its section."""

from pydantic import Field

from megatron_r1.stages.optim import Optim
from megatron_r1.stages.section import StageConfig


class TrainingStage(StageConfig):
    """Base of the stages that train: they leave a checkpoint."""

    steps: int = Field(ge=1)
    """Steps of the stage."""
    optim: Optim
    """The optimizer."""
    tokens_per_pack: int = Field(default=8192, ge=8, multiple_of=8)
    """The most tokens of one micro-batch on a rank."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept while the stage runs; a finished stage keeps its last."""
