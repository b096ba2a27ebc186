"""A small configuration with every form that the package's own sections have."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from megatron_r1.config import Section


class Optim(Section):
    lr: float
    """Peak learning rate."""
    clip: float | None = None
    warmup_steps: int = 0


class Grpo(Section):
    kind: Literal["grpo"] = "grpo"
    group_size: Annotated[int, Field(ge=2)] = 16
    optim: Optim
    judge: str | Optim | dict[str, Optim] | None = None


class Sft(Section):
    kind: Literal["sft"] = "sft"
    data: tuple[str, ...] = ()
    epochs: float = 2.0
    shuffle: bool = True

    @model_validator(mode="after")
    def _has_data(self) -> "Sft":
        if self.epochs > 100 and not self.data:
            raise ValueError("epochs without data; name a file")
        return self


class Run(Section):
    """A run."""

    name: str
    """Name of the run."""
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    vocab: Path | None = None
    lengths: dict[int, int] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    stages: dict[str, Annotated[Grpo | Sft, Field(discriminator="kind")]] = Field(default_factory=dict)
