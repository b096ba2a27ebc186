"""GPU specifications: one YAML file each in this folder, with the source of its figures, or a user's file."""

from functools import cache
from pathlib import Path

from pydantic import Field

from megatron_r1 import config
from megatron_r1.config.explain import near
from megatron_r1.errors import ConfigError
from megatron_r1.section import Section

FOLDER = Path(__file__).parent


class Hardware(Section):
    """A kind of GPU and its links. Rates are per GPU, bandwidths per direction."""

    memory_gib: float = Field(gt=0)
    """Memory that the driver reports."""
    reserved_gib: float = Field(default=4.0, ge=0)
    """Memory assumed for the CUDA context, NCCL's buffers and fragmentation."""
    bf16_tflops: float = Field(gt=0)
    """Dense matrix products in BF16."""
    fp8_tflops: float | None = None
    """Dense matrix products in FP8; null: not supported."""
    memory_gb_s: float = Field(gt=0)
    """Bandwidth of its memory."""
    node_gb_s: float = Field(gt=0)
    """Bandwidth to the other GPUs of its node."""
    network_gb_s: float = Field(gt=0)
    """Bandwidth to other nodes."""
    host_gb_s: float = Field(gt=0)
    """Bandwidth to the host's memory."""
    gpus_per_node: int = Field(default=8, ge=1)
    """GPUs in a node."""
    source: str
    """Where the figures are from."""

    @property
    def usable_bytes(self) -> float:
        return (self.memory_gib - self.reserved_gib) * 1024**3


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def load_hardware(name: str) -> Hardware:
    """The GPU of that name, or of the YAML file at that path (ending in .yaml).

    ConfigError for an unknown name lists the known ones.
    """
    if name.endswith(".yaml"):
        return config.load(Path(name), Hardware).value
    if name not in names():
        meant = near(name, names())
        hint = f"did you mean {meant}?; " if meant else ""
        raise ConfigError(
            f"hardware: no {name!r}; {hint}known are {', '.join(names())} (files in {FOLDER}), "
            "or name a file of your own, such as my_gpu.yaml"
        )
    return config.load(FOLDER / f"{name}.yaml", Hardware).value
