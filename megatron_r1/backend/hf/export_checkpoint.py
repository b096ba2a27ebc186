"""Exports a checkpoint of any layout to a Hugging Face model, one tensor in memory at a time.

Weights are read from the checkpoint's files without a model, with or without an optimizer beside them. The
ranks share the shards; an interrupted export resumes.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from megatron_r1 import registry
from megatron_r1.backend.checkpoint import files
from megatron_r1.backend.checkpoint.files import Manifest
from megatron_r1.backend.checkpoint.reader import CheckpointReader
from megatron_r1.backend.hf.import_checkpoint import on_each
from megatron_r1.backend.parallel.collectives import on_all_ranks, on_first_rank, share
from megatron_r1.errors import CheckpointError
from megatron_r1.huggingface import fp8, provenance, target
from megatron_r1.huggingface.config_file import CONFIG, merged_config, read_json
from megatron_r1.huggingface.resumable_writer import Parts
from megatron_r1.huggingface.safetensors_file import DTYPES, Planned, SafetensorsFile
from megatron_r1.huggingface.source import SCALE
from megatron_r1.huggingface.weight_mapping import to_hugging_face
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.models.weights import Weight

SHARD_BYTES = 5_000_000_000
DTYPE_OF = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
CONFIG_NAMES = {torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float16: "float16"}


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """dtype: of all tensors but those that stay fp32; None: as imported, or as trained."""

    dtype: torch.dtype | None = None
    blocks: bool = False  # FP8 blocks, where the table or the origin has them
    shard_bytes: int = SHARD_BYTES


def export_options(*, dtype: str | None, fp8: bool, max_shard_size: str) -> ExportOptions:
    """The options from the values of a command or a YAML file."""
    return ExportOptions(
        None if dtype is None else DTYPE_OF[dtype], fp8, target.size_in_bytes(max_shard_size)
    )


def family_in(manifest: Manifest) -> FamilyConfig:
    """The family and shape of the model in a checkpoint."""
    name, known = manifest.model.get("family"), registry.families()
    if not isinstance(name, str) or name not in known:
        raise CheckpointError(
            f"the checkpoint holds a model of the family {name!r:.80}, known are {', '.join(known)}; "
            "a plug-in's own is known in runs that name the plug-in"
        )
    try:
        family = known[name].config.model_validate(manifest.model)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:8])
        raise CheckpointError(
            f"the checkpoint's description of its model is none of {name}: {found}"
        ) from None
    assert isinstance(family, FamilyConfig)
    return family


def export_model(
    directory: Path,
    out: Path,
    options: ExportOptions,
    *,
    progress: Callable[[int, int], None],
    replace: bool = False,
) -> None:
    """Write the model. A collective call. replace: an earlier export at `out`.

    Raises CheckpointError, before anything is written, if the checkpoint is damaged or can't be converted.
    """
    manifest = on_all_ranks(f"{directory}: not read", lambda: files.read_manifest(directory))
    on_all_ranks(f"{directory}: not read", lambda: files.check_index(directory, manifest))
    family = family_in(manifest)
    if family.hf_architecture is None:
        raise CheckpointError(f"{directory}: Hugging Face has no architecture for the family {family.family}")
    parts = Parts(out, hashlib.sha256, replaceable=target.SUMS if replace else None)
    _Export(directory, parts, family, options).run(manifest, progress)


class _Export:
    def __init__(self, directory: Path, parts: Parts, family: FamilyConfig, options: ExportOptions) -> None:
        self.directory, self.parts, self.family, self.options = directory, parts, family, options
        self.reader = CheckpointReader(directory)
        self.folder = directory / provenance.FOLDER
        self.origin = provenance.read_origin(self.folder)
        self.weights = family.weights()
        problem = uncovered(self.reader, family)
        if problem is not None:
            raise CheckpointError(problem)
        self.places = {n: (w, part) for w in self.weights for part, n in enumerate(w.hf)}
        self.copies = {copy.name: copy for copy in family.copies() if copy.exported}
        path = self.folder / provenance.SCALES
        self.scales = SafetensorsFile(path) if path.is_file() else None
        self.quantization = self._quantization() if options.blocks else None
        self.shards = target.plan_shards(list(self._groups()), limit_bytes=options.shard_bytes)

    def run(self, manifest: Manifest, progress: Callable[[int, int], None]) -> None:
        total = sum(shard.num_bytes for shard in self.shards)
        what = f"{self.parts.target}: not written"
        plan = self._plan(manifest)
        done = on_first_rank(what, lambda: self.parts.start(plan, num_bytes=total))
        shards = {shard.name: shard for shard in self.shards}
        left = [name for name in shards if name not in done]
        with ThreadPoolExecutor(1) as pool:
            checked = pool.submit(self._check_hashes, manifest)
            self._write_shards(shards, left, lambda: progress(self.parts.written(), total))
            on_all_ranks(what, self.parts.settle)
            on_all_ranks(f"{self.directory}: not read", checked.result)
        on_first_rank(what, self._finish)
        progress(total, total)

    def _check_hashes(self, manifest: Manifest) -> None:
        """Verify this rank's share of the checkpoint's files, during the export: it fills the page cache."""
        for name in share(list(manifest.files)):
            files.check_file(self.directory, name, manifest.files[name])

    def _write_shards(
        self, shards: Mapping[str, target.Shard], left: Sequence[str], progress: Callable[[], None]
    ) -> None:
        what = f"{self.parts.target}: not written"
        for name in on_each(share(left), progress=progress):
            on_all_ranks(
                what,
                lambda name=name: name and target.write_shard(self.parts, shards[name], self._tensors),
            )

    def _plan(self, manifest: Manifest) -> dict[str, Any]:
        return {
            "checkpoint": manifest.files,
            "dtype": str(self.options.dtype),
            "blocks": self.options.blocks,
            "shards": [shard.name for shard in self.shards],
        }

    def _finish(self) -> None:
        carried = {p.name: p.read_bytes() for p in self.folder.iterdir()} if self.folder.is_dir() else {}
        for name in (CONFIG, provenance.ORIGIN, provenance.SCALES):
            carried.pop(name, None)
        target.finish(self.parts, self.shards, self._config(), carried)

    def _quantization(self) -> dict[str, Any]:
        """quantization_config of config.json: the imported one, if the model came in the same FP8 blocks."""
        came_in_blocks = self.origin is not None and self.origin.blocks
        own = (self._carried_config() or {}).get("quantization_config") if came_in_blocks else None
        return own or fp8.CONFIG

    def _carried_config(self) -> dict[str, Any] | None:
        path = self.folder / CONFIG
        return read_json(path) if path.is_file() else None

    def _config(self) -> dict[str, Any]:
        carried = self._carried_config()
        dtype = torch.bfloat16 if self.options.blocks else self._most()
        return merged_config(self.family, carried, dtype=CONFIG_NAMES[dtype], quantization=self.quantization)

    def _most(self) -> torch.dtype:
        sizes: dict[torch.dtype, int] = {}
        for shard in self.shards:
            for tensor in shard.tensors:
                sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.num_bytes
        return max(sizes, key=lambda dtype: sizes[dtype])

    def _groups(self) -> Iterator[list[Planned]]:
        """Tensors that must be in the same shard: a weight and its scales."""
        for weight in self.weights:
            for part, name in enumerate(weight.hf):
                yield from self._planned(name, weight, weight.hf_shape(part))
        for copy in self.copies.values():
            weight, part = self.places[copy.of]
            yield [Planned(copy.name, self._dtype(copy.of, weight), weight.hf_shape(part))]

    def _planned(self, name: str, weight: Weight, shape: tuple[int, ...]) -> Iterator[list[Planned]]:
        if self._in_blocks(name, weight):
            scales = Planned(name + SCALE, torch.float32, fp8.scale_shape(shape))
            yield [Planned(name, fp8.CODES, shape), scales]
        else:
            yield [Planned(name, self._dtype(name, weight), shape)]

    def _in_blocks(self, name: str, weight: Weight) -> bool:
        if not self.options.blocks:
            return False
        return name in self.origin.blocks if self.origin and self.origin.blocks else weight.row.blocks

    def _dtype(self, name: str, weight: Weight) -> torch.dtype:
        if self.options.dtype is not None:
            return torch.float32 if weight.row.fp32 else self.options.dtype
        if self.origin is not None and name not in self.origin.blocks:
            return DTYPES[self.origin.dtype_of(name)]
        return self.reader.dtypes[stored_name(self.reader, weight)]

    def _tensors(self, name: str) -> dict[str, Tensor]:
        """For `write_shard`: the tensor of this name with its scales."""
        original = self.copies[name].of if name in self.copies else name
        weight, part = self.places[original]
        stored = stored_name(self.reader, weight)
        value = to_hugging_face(weight, part, lambda rows: self.reader.read(stored, rows))
        if name == original and self._in_blocks(name, weight):
            powers_of_two = fp8.are_powers_of_two(self.quantization or {})
            codes, scales = fp8.quantize(value, self._old_scales(name), powers_of_two=powers_of_two)
            return {name: codes, name + SCALE: scales}
        return {name: value.to(self._dtype(original, weight))}

    def _old_scales(self, name: str) -> Tensor | None:
        if self.scales is None or name not in self.scales.tensors:
            return None
        return self.scales.read(name)


def uncovered(reader: CheckpointReader, family: FamilyConfig) -> str | None:
    """Weights of the checkpoint missing in the family's table, or the other way round; None: there are
    none."""
    weights = family.weights()
    known = {stored_name(reader, weight): weight for weight in weights}
    missing = sorted(known.keys() - reader.shapes.keys())
    extra = sorted(reader.shapes.keys() - known.keys())
    if missing or extra:
        return (
            f"{reader.directory}: its weights are not those of {family.family}: "
            f"missing {missing[:8]}, without a row in the table {extra[:8]}"
        )
    for name, weight in known.items():
        found = reader.shapes[name]
        # tensor ranks may have padded the vocabulary
        if found[1:] != weight.shape[1:] or found[0] < weight.shape[0]:
            return f"{reader.directory}: {name} is {list(found)}, and {list(weight.shape)} in the table"
    return None


def stored_name(reader: CheckpointReader, weight: Weight) -> str:
    """The weight's name in this checkpoint, of local modules or of Transformer Engine's."""
    other = weight.engine_name()
    return other if other is not None and other in reader.shapes else weight.megatron
