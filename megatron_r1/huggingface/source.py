"""A Hugging Face model on disk: its configuration and its tensors by name, fully validated.

Opening reads only headers. Tensors are read by slices; FP8 blocks are dequantised. Pickle files are refused.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_r1.errors import CheckpointError, ConfigError
from megatron_r1.files.regular_file import file_problem
from megatron_r1.huggingface import fp8
from megatron_r1.huggingface.config_file import CONFIG, INDEX, family_of, read_json
from megatron_r1.huggingface.safetensors_file import Buffer, Entry, SafetensorsFile
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.models.weights import Weight

SCALE = "_scale_inv"  # suffix of a weight's name for the scales of its FP8 blocks
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
COPY_ROWS = 4096  # compared at a time
MOST_NAMED = 8  # tensors that an error lists
MOST_MISSING = 100  # a config that needs this many times the tensors that exist is refused at once
NUMBERED = re.compile(r"-of-(\d+)\.safetensors$")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which tensors become which weights. dropped: tensors that are left out, and why (for the log)."""

    family: FamilyConfig
    weights: list[Weight]
    warnings: list[str]


class Source:
    """The tensors of a directory. Raises CheckpointError if files are missing, damaged or contradictory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: no such directory")
        self.config = read_json(directory / CONFIG)
        self._files = _open(directory)
        self._scales: tuple[str, Tensor] | None = None

    @property
    def names(self) -> set[str]:
        return set(self._files)

    @property
    def num_bytes(self) -> int:
        return sum(self.entry(name).num_bytes for name in self._files)

    @property
    def files(self) -> list[Path]:
        return sorted({file.path for file in self._files.values()})

    def names_in(self, path: Path) -> list[str]:
        """The tensors of one of the files."""
        return [name for name, file in self._files.items() if file.path == path]

    def entry(self, name: str) -> Entry:
        return self._files[name].tensors[name]

    def in_blocks(self, name: str) -> bool:
        """Whether the weight is stored as FP8 blocks."""
        return name + SCALE in self._files

    def dtype(self, name: str) -> torch.dtype:
        """The stored dtype of the weight."""
        return self.entry(name).dtype

    def read(
        self,
        name: str,
        dtype: torch.dtype,
        *,
        rows: range | None = None,
        columns: range | None = None,
        buffer: Buffer | None = None,
    ) -> Tensor:
        """A tensor or a slice of it, in this dtype. buffer: its memory may hold the result until the next
        read."""
        data = self._files[name].read(name, rows, columns, buffer=buffer)
        if self.in_blocks(name):
            top, left = (0 if part is None else part.start for part in (rows, columns))
            return fp8.dequantize(data, self._scales_of(name), dtype, top=top, left=left)
        return data.to(dtype)

    def scales(self, name: str) -> Tensor:
        """[m, n] fp32 of a weight in FP8 blocks."""
        return self._files[name + SCALE].read(name + SCALE).to(torch.float32)

    def _scales_of(self, name: str) -> Tensor:
        if self._scales is None or self._scales[0] != name:
            self._scales = name, self.scales(name)
        return self._scales[1]

    def plan(self, wanted: FamilyConfig | None = None) -> Plan:
        """The plan for all tensors. wanted: the shape in the run's configuration; None: config.json's.

        Raises CheckpointError with the tensors that are missing, unused, or of another shape or dtype.
        """
        self._check_quantization()
        found = family_of(self.config, self.directory / CONFIG)
        family = _without_missing_mtp(found, self.names)
        warnings = []
        if family is not found:
            warnings.append(
                f"{self.directory / CONFIG} names {found.shape().num_mtp_layers} MTP layer(s) and the files "
                "hold none: the model is converted without"
            )
        used = set(self._check_tensors(family))
        weights = family.weights()
        if wanted is not None:
            family, weights = self._as_wanted(family, wanted, warnings)
        left = self.names - used
        if left:
            raise CheckpointError(
                f"{self.directory}: tensors that no weight is made of: {_list(sorted(left))}"
            )
        return Plan(family, weights, warnings)

    def check_copies(self, family: FamilyConfig) -> None:
        """Tensors that repeat another one must equal it, since Megatron holds one for both. Reads both."""
        for copy in family.copies():
            if copy.name not in self._files:
                continue
            rows, dtype = self.entry(copy.name).shape[0], self.dtype(copy.of)
            for start in range(0, rows, COPY_ROWS):
                part = range(start, min(start + COPY_ROWS, rows))
                values = [self.read(name, dtype, rows=part) for name in (copy.name, copy.of)]
                if not torch.equal(*values):
                    raise CheckpointError(
                        f"{self.directory}: {copy.name} is not {copy.of}; Megatron holds one tensor for both"
                    )

    def _as_wanted(
        self, family: FamilyConfig, wanted: FamilyConfig, warnings: list[str]
    ) -> tuple[FamilyConfig, list[Weight]]:
        """The run's shape, which may leave MTP out and differ in settings that no weight depends on."""
        differences = shape_differences(family, wanted)
        mtp = "mtp_layers"
        if any(text.startswith(f"{mtp}:") for text in differences) and not wanted.shape().num_mtp_layers:
            differences = [text for text in differences if not text.startswith(f"{mtp}:")]
            warnings.append(f"{self.directory}: its MTP layers are left out, as model.mtp_layers is 0")
        if differences:
            raise ConfigError(
                f"{self.directory}: holds another model than `model` describes: {'; '.join(differences)}"
            )
        return wanted, wanted.weights()

    def _check_quantization(self) -> None:
        quantization = self.config.get("quantization_config")
        if quantization is None:
            return
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        block = quantization.get("weight_block_size") if isinstance(quantization, dict) else None
        if method != "fp8" or block != [fp8.BLOCK, fp8.BLOCK]:
            raise ConfigError(
                f"{self.directory / CONFIG}: quantization {method!r} with blocks {block}: only fp8 in blocks "
                f"of [{fp8.BLOCK}, {fp8.BLOCK}] can be converted"
            )

    def _check_tensors(self, family: FamilyConfig) -> Iterator[str]:
        """Names that the weight table uses; raises unless all exist with the right shapes and dtypes."""
        missing, wrong = [], []
        self._check_count(family)
        for weight in family.weights():
            for part, name in enumerate(weight.hf):
                if name not in self._files:
                    missing.append(name)
                    continue
                yield name
                wrong += self._wrong(name, weight.hf_shape(part))
                if self.in_blocks(name):
                    yield name + SCALE
        if missing:
            raise CheckpointError(f"{self.directory}: tensors are missing: {_list(missing)}")
        for copy in family.copies():
            if copy.name in self._files:
                yield copy.name
                wrong += self._wrong(copy.name, self.entry(copy.of).shape)
        if wrong:
            raise CheckpointError(f"{self.directory}: {_list(wrong)}")
        yield from (name for name in self.names if name.endswith(family.hf_recomputed))

    def _check_count(self, family: FamilyConfig) -> None:
        """Refuse a wrong config.json before millions of names are computed from it."""
        rows = family.weight_rows()
        needed = sum(len(row.hf) * max(1, len(row.layers)) * max(1, row.experts) for row in rows)
        if needed > MOST_MISSING * len(self.names) + MOST_MISSING:
            raise CheckpointError(
                f"{self.directory / CONFIG}: describes a model of {needed:,} tensors, and the files hold "
                f"{len(self.names):,}; fetch the files that are missing, or the right {CONFIG}"
            )

    def _wrong(self, name: str, shape: tuple[int, ...]) -> Iterator[str]:
        entry = self.entry(name)
        if entry.shape != shape:
            yield f"{name} has the shape {list(entry.shape)} and the configuration says {list(shape)}"
        if self.in_blocks(name):
            scales = self.entry(name + SCALE)
            fits = len(entry.shape) == 2 and scales.shape == fp8.scale_shape(entry.shape)
            if entry.dtype != fp8.CODES or not fits or not scales.dtype.is_floating_point:
                yield (
                    f"{name} is {entry.dtype} with scales of shape {list(scales.shape)} and {scales.dtype}: "
                    f"no FP8 weight in blocks of {fp8.BLOCK}"
                )
        elif not entry.dtype.is_floating_point or entry.dtype.itemsize < 2:
            yield f"{name} is of type {entry.dtype}, without the scales that would make it weights"


def fingerprint(directory: Path) -> dict[str, Any]:
    """Identifies the weights of a directory without reading them: configuration and file sizes."""
    source = Source(directory)
    return {
        "config": source.config,
        "files": {path.name: path.stat().st_size for path in source.files},
    }


class Stream:
    """Reads a source tensor by tensor: the next `read` overwrites the result (weight_mapping.Reader).

    After a `turn` the tensors read before stay valid until the third one.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._buffer = source, Buffer()

    def turn(self) -> None:
        self._buffer.turn()

    def read(
        self, name: str, dtype: torch.dtype, *, rows: range | None = None, columns: range | None = None
    ) -> Tensor:
        return self._source.read(name, dtype, rows=rows, columns=columns, buffer=self._buffer)


def shape_differences(found: FamilyConfig, wanted: FamilyConfig) -> list[str]:
    """The differing fields on which weights or logits depend."""
    if type(found) is not type(wanted):
        return [f"family: {found.family} in the files, {wanted.family} in the run"]
    here, there = wanted.model_dump(mode="json"), found.model_dump(mode="json")
    return [
        f"{name}: {there[name]} in the files, {here[name]} in the run"
        for name in here
        if here[name] != there[name]
        and name not in found.hf_training_only
        and not _same_head(name, found, wanted)
    ]


def _same_head(name: str, found: FamilyConfig, wanted: FamilyConfig) -> bool:
    """Whether both have the same head_dim, which defaults to hidden_size / num_attention_heads."""
    if name != "head_dim":
        return False
    return found.to_hf().get("head_dim") == wanted.to_hf().get("head_dim")


def _without_missing_mtp(family: FamilyConfig, names: set[str]) -> FamilyConfig:
    shape = family.shape()
    layers = range(shape.num_layers, shape.num_layers + shape.num_mtp_layers)
    if not layers or any(name.startswith(f"model.layers.{layer}.") for layer in layers for name in names):
        return family
    return family.model_copy(update={"mtp_layers": 0})


def _list(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return ", ".join(texts[:MOST_NAMED]) + more


def _open(directory: Path) -> dict[str, SafetensorsFile]:
    """The file of each tensor."""
    paths = sorted(directory.glob("*.safetensors"))
    index = directory / INDEX
    if index.exists() or index.is_symlink():  # a dangling link is an error, not a missing index
        return _by_index(directory, index)
    if not paths:
        pickled = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLES)
        what = f"only {', '.join(pickled)}, which are pickle and never loaded" if pickled else "no weights"
        raise CheckpointError(f"{directory}: {what}; *.safetensors files are needed")
    _check_complete(directory, paths)
    found: dict[str, SafetensorsFile] = {}
    for file in map(SafetensorsFile, paths):
        for name in file.tensors:
            if name in found:
                raise CheckpointError(
                    f"{name} is in {found[name].path} and in {file.path}; remove one of them"
                )
            found[name] = file
    return found


def _check_complete(directory: Path, paths: Sequence[Path]) -> None:
    """Raises CheckpointError if numbered files are missing: their names contain the total."""
    totals = {int(match[1]) for path in paths if (match := NUMBERED.search(path.name))}
    if totals and (len(totals) > 1 or totals != {len(paths)}):
        raise CheckpointError(f"{directory}: {len(paths)} of {max(totals)} shards; fetch the others")


def _by_index(directory: Path, index: Path) -> dict[str, SafetensorsFile]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(
            f"{index}: its weight_map is no mapping of tensors to file names; fetch it again"
        )
    elsewhere = sorted({name for name in weight_map.values() if not _plain(name)})
    if elsewhere:
        raise CheckpointError(
            f"{index}: names files outside its directory: {_list([ascii(name) for name in elsewhere])}; an "
            "index names the files beside it and nothing else"
        )
    files: dict[str, SafetensorsFile] = {}
    for name in sorted(set(weight_map.values())):
        problem = file_problem(directory / name)
        if problem is not None:
            what = "missing" if problem == "no such file" else problem
            raise CheckpointError(f"{directory / name}: {what}, and the index names it; fetch it")
        files[name] = SafetensorsFile(directory / name)
    found = {tensor: files[name] for tensor, name in weight_map.items()}
    lost = [f"{tensor} in {name}" for tensor, name in weight_map.items() if tensor not in files[name].tensors]
    extra = [f"{t} in {n}" for n, file in files.items() for t in file.tensors if weight_map.get(t) != n]
    if lost or extra:
        text = f"not there: {_list(lost)}" if lost else f"not in the index: {_list(extra)}"
        raise CheckpointError(f"{index}: disagrees with the shards; {text}")
    return found


def _plain(name: str) -> bool:
    """Whether the name is of a file in this directory: an index must not lead anywhere else."""
    return Path(name).name == name and name not in ("", "..")
