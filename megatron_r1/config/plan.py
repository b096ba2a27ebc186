"""The `plan:` section: the machine that a run is meant for, and what the plan assumes."""

from pydantic import Field

from megatron_r1.section import Section


class PlanConfig(Section):
    """`check` and `submit` plan a run whose hardware is named here; `megatron-r1 plan` plans any."""

    hardware: str | None = None
    """The GPU: a100, b200, h100, h200, h800, or the path of a YAML file of your own; null: no plan."""
    refuse: bool = True
    """Whether a run that does not fit is an error; false: a warning."""
    prompt_tokens: int = Field(default=1024, ge=0)
    """Tokens of the longest prompt."""
    mean_length: float = Field(default=0.5, gt=0, le=1)
    """Mean length of an output over the longest, for FLOPs and hours; memory is planned for the longest."""
    mfu: float = Field(default=0.35, gt=0, le=1)
    """Share of the BF16 peak in training. Published: DeepSeek-V3 0.39 (FP8), Megatron on 1,024 H100 0.34."""
    bandwidth_share: float = Field(default=0.6, gt=0, le=1)
    """Share of a bandwidth that is reached, of memory in decoding and of the links."""
    layer_latency_us: float = Field(default=100.0, ge=0)
    """A layer's part of a decoding step beyond reading its weights: launches, the experts' all-to-alls."""
    storage_gb_s: float = Field(default=20.0, gt=0)
    """GB a second that all ranks together write to the file system; training waits for a checkpoint."""
