"""Provenance: what a checkpoint keeps of its Hugging Face model, so that an export can restore it.

    CHECKPOINT/huggingface/config.json, tokenizer.json, ...   the carried files, unchanged
    CHECKPOINT/huggingface/origin.json                        the tensors' dtypes
    CHECKPOINT/huggingface/scales.safetensors                 the scales of weights that were FP8 blocks

Training keeps the first two in its checkpoints (policy.py); new weights get new scales.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from megatron_r1.huggingface.config_file import carried_files, read_json
from megatron_r1.huggingface.safetensors_file import NAMES
from megatron_r1.huggingface.source import Source
from megatron_r1.models.shape import FamilyConfig

FOLDER = "huggingface"
ORIGIN = "origin.json"
SCALES = "scales.safetensors"


@dataclass(frozen=True, slots=True)
class Origin:
    """The tensors' dtypes, by safetensors' names. others: tensors that differ from `dtype`."""

    dtype: str
    others: dict[str, str] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()  # weights that were FP8 blocks

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def dtype_of(self, name: str) -> str:
        return self.others.get(name, self.dtype)


def origin_of(source: Source, family: FamilyConfig) -> Origin:
    names = [name for weight in family.weights() for name in weight.hf]
    dtypes = {name: NAMES[source.dtype(name)] for name in names}
    most = Counter(dtypes.values()).most_common(1)[0][0]
    blocks = tuple(name for name in names if source.in_blocks(name))
    return Origin(most, {name: dtype for name, dtype in dtypes.items() if dtype != most}, blocks)


def main_dtype(source: Source) -> torch.dtype:
    """The dtype of most bytes; FP8 blocks count as bf16, in which they are trained."""
    sizes: Counter[torch.dtype] = Counter()
    for name in source.names:
        dtype = torch.bfloat16 if source.in_blocks(name) else source.dtype(name)
        sizes[dtype] += source.entry(name).num_bytes
    return sizes.most_common(1)[0][0]


def files_to_carry(source: Source, family: FamilyConfig) -> dict[str, bytes]:
    """The files that training keeps in its checkpoints, by name within FOLDER."""
    found = {path.name: path.read_bytes() for path in carried_files(source.directory)}
    return {**found, ORIGIN: origin_of(source, family).text().encode()}


def read_origin(folder: Path) -> Origin | None:
    """The origin in this folder; None: the weights don't come from Hugging Face's files."""
    if not (folder / ORIGIN).is_file():
        return None
    content: Mapping = read_json(folder / ORIGIN)
    return Origin(content["dtype"], dict(content["others"]), tuple(content["blocks"]))
