"""Writes a Hugging Face model: shards, their index, config.json and the carried files.

Names, dtypes and shapes are known before, so every shard is planned before the first byte is written: the
ranks share the shards, each holds one tensor at a time, and the header comes first.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from megatron_r1.errors import ConfigError
from megatron_r1.huggingface.config_file import CONFIG, INDEX
from megatron_r1.huggingface.prefetch import prefetched
from megatron_r1.huggingface.resumable_writer import HashedFile, Parts
from megatron_r1.huggingface.safetensors_file import Planned, bytes_of, header_of

SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SUMS = "SHA256SUMS"  # `sha256sum -c` reads it


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the model."""

    name: str
    tensors: list[Planned]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors)


def size_in_bytes(text: str) -> int:
    """5GB, 200MB, 1GiB. ConfigError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in SIZES:
        raise ConfigError(f"{text!r} is no size; write it as 5GB or 200MB")
    size = int(float(found[1]) * SIZES[found[2].upper()])
    if size < 1:
        raise ConfigError(f"{text!r} leaves no room for a tensor")
    return size


def plan_shards(groups: Sequence[Sequence[Planned]], *, limit_bytes: int) -> list[Shard]:
    """Shards of at most limit_bytes, in this order. A group (a weight and its scales) stays together."""
    files: list[list[Planned]] = [[]]
    size = 0
    for group in groups:
        added = sum(tensor.num_bytes for tensor in group)
        if files[-1] and size + added > limit_bytes:
            files.append([])
            size = 0
        files[-1].extend(group)
        size += added
    if len(files) == 1:
        return [Shard("model.safetensors", files[0])]
    return [Shard(f"model-{i + 1:05d}-of-{len(files):05d}.safetensors", f) for i, f in enumerate(files)]


def write_shard(parts: Parts, shard: Shard, make: Callable[[str], Mapping[str, Tensor]]) -> None:
    """make: returns the named tensor with its scales; called in the file's order."""

    def fill(file: HashedFile) -> None:
        file.write(header_of(shard.tensors))
        for value in prefetched(_made(shard, make)):
            file.write(bytes_of(value))
            file.settle()  # the memory of the tensor before is used again

    parts.write(shard.name, fill)


def _made(shard: Shard, make: Callable[[str], Mapping[str, Tensor]]) -> Iterator[Tensor]:
    ready: dict[str, Tensor] = {}
    for planned in shard.tensors:
        if planned.name not in ready:
            ready.update(make(planned.name))
        value = ready.pop(planned.name)
        assert (value.dtype, tuple(value.shape)) == (planned.dtype, planned.shape), planned
        yield value


def finish(
    parts: Parts, shards: Sequence[Shard], config: Mapping[str, Any], carried: Mapping[str, bytes]
) -> None:
    """Index, config.json, carried files and checksums; then the directory gets its name."""
    sums = {shard.name: parts.note(shard.name)["digest"] for shard in shards}
    for name, content in carried.items():
        (parts.partial / name).write_bytes(content)
    (parts.partial / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if len(shards) > 1:
        (parts.partial / INDEX).write_text(json.dumps(_index(shards), indent=2) + "\n", "utf-8")
    lines = [f"{digest}  {name}" for name, digest in sorted(sums.items())]
    (parts.partial / SUMS).write_text("\n".join(lines) + "\n", "utf-8")
    parts.sweep()
    parts.publish()


def _index(shards: Sequence[Shard]) -> dict[str, Any]:
    weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    return {
        "metadata": {"total_size": sum(shard.num_bytes for shard in shards)},
        "weight_map": dict(sorted(weight_map.items())),
    }
