"""Imports a Hugging Face model as a checkpoint, one tensor in memory at a time, whatever the model's size.

Megatron builds the model on the meta device and describes its checkpoint; the files are then written here in
the same format (torch.distributed.checkpoint) from slices of the source. Any layout can read the result. The
ranks share the files, and an interrupted import resumes.
"""

import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.serialization as serialization
from blake3 import blake3
from megatron.core.dist_checkpointing.core import CONFIG_FNAME, CheckpointingConfig
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from megatron_r1.backend.checkpoint import files
from megatron_r1.backend.checkpoint.files import Manifest
from megatron_r1.backend.checkpoint.load_hf import is_finite
from megatron_r1.backend.model.build import ModelOptions, build_model
from megatron_r1.backend.model.precision import Precision, parameter_dtype
from megatron_r1.backend.model.weight_slices import by_name, place_of
from megatron_r1.backend.parallel.collectives import gather, on_all_ranks, on_first_rank, share
from megatron_r1.config.layout import Layout
from megatron_r1.errors import CheckpointError
from megatron_r1.files.atomic import write_durably
from megatron_r1.huggingface import provenance
from megatron_r1.huggingface.prefetch import prefetched
from megatron_r1.huggingface.resumable_writer import HashedFile, Parts
from megatron_r1.huggingface.safetensors_file import Planned, bytes_of, header_of
from megatron_r1.huggingface.source import Plan, Source, Stream
from megatron_r1.huggingface.weight_mapping import to_megatron
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.models.weights import Weight

MOST_NAMED = 8
PART_BYTES = 1 << 30
STATE = {"policy": {"version": 0, "optimizer_step": 0}, "stage": {}}
Progress = Callable[[int, int], None]  # (bytes done by all ranks, total bytes)


@dataclass(frozen=True, slots=True)
class _Format:
    """Megatron's description of the checkpoint: the items in its order, and their index."""

    planner: MCoreSavePlanner
    items: list[WriteItem]
    metadata: Metadata


def import_model(
    directory: Path, target: Path, *, precision: Precision | None, progress: Progress
) -> list[str]:
    """Write the checkpoint; returns warnings. A collective call; no rank has built a model yet.

    precision: of the checkpoint's weights; None: the source's, with FP8 as bf16 and fp16 as fp32.
    Raises CheckpointError or ConfigError, before anything is written, if the source can't be converted.
    """
    source = Source(directory)
    plan = source.plan()
    on_first_rank(f"{directory}: not read", lambda: source.check_copies(plan.family))
    precision = precision or _precision_of(source)
    work = _Import(source, plan, Parts(target, blake3), precision)
    return [*plan.warnings, *work.run(progress)]


def _precision_of(source: Source) -> Precision:
    return "bf16" if provenance.main_dtype(source) == torch.bfloat16 else "fp32"


class _Import:
    def __init__(self, source: Source, plan: Plan, parts: Parts, precision: Precision) -> None:
        self.source, self.plan, self.parts, self.precision = source, plan, parts, precision
        self.format = checkpoint_format(plan.family, precision)
        self.table = by_name(plan.weights)
        self.stream = Stream(source)
        self.held: Tensor | None = None
        check_cover(self.format.items, plan.weights)
        self.groups = list(_groups(self.format.items))
        self.bad: list[str] = []  # weights that aren't finite, on rank 0 after the import

    def run(self, progress: Progress) -> list[str]:
        total = sum(map(_num_bytes, self.format.items))
        what = f"{self.parts.target}: not written"
        done = on_first_rank(what, lambda: self.parts.start(self._plan(), num_bytes=total))
        names = {f"__{i}_0.distcp": group for i, group in enumerate(self.groups)}
        left = [name for name in names if name not in done]
        for name in on_each(share(left), progress=lambda: progress(self.parts.written(), total)):
            on_all_ranks(what, lambda name=name: name and self._write(name, names[name]))  # type: ignore[misc]
        on_all_ranks(what, self.parts.settle)
        on_first_rank(what, lambda: self._finish(list(names)))
        progress(total, total)
        bad = gather(self.bad)[0]
        return [f"{self.source.directory}: {name} holds numbers that are not finite" for name in bad]

    def _plan(self) -> dict[str, Any]:
        """Everything that the parts depend on: another plan discards them."""
        return {
            "source": [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in self.source.files],
            "family": self.plan.family.model_dump(mode="json"),
            "precision": self.precision,
            "parts": len(self.groups),
        }

    def _write(self, name: str, items: Sequence[WriteItem]) -> None:
        with _no_crc():
            self._write_part(name, items)

    def _write_part(self, name: str, items: Sequence[WriteItem]) -> None:
        def fill(file: HashedFile) -> dict[str, Any]:
            places, bad = [], []
            for data, not_finite in prefetched(map(self._content, items)):
                start = file.tell()
                self._write_item(file, data)
                places.append([start, file.tell() - start])
                bad += not_finite
            return {"places": places, "not_finite": bad}

        self.parts.write(name, fill)

    def _content(self, item: WriteItem) -> tuple[bytes | Tensor, list[str]]:
        """The item's content, and the name of the weight if it isn't finite."""
        if item.type == WriteItemType.BYTE_IO:
            return self.format.planner.resolve_data(item).getvalue(), []  # type: ignore[union-attr]
        assert item.tensor_data is not None
        chunk, dtype = item.tensor_data.chunk, item.tensor_data.properties.dtype
        place = place_of(item.index.fqn, chunk.offsets, chunk.sizes)
        weight = self.table[place.name]
        self.stream.turn()
        value = to_megatron(self.stream, weight, dtype, rows=place.rows, columns=place.columns)
        return value.view(chunk.sizes), [] if is_finite(value) else [weight.megatron]

    def _write_item(self, file: HashedFile, data: bytes | Tensor) -> None:
        if isinstance(data, bytes):
            file.write(data)
            return
        _save(data, file)
        self.held = data  # keep it alive: its memory may not be hashed yet; the previous one is

    def _finish(self, names: Sequence[str]) -> None:
        """Write the index of all parts, the state, the carried files and, last, the manifest."""
        notes = {name: self.parts.note(name) for name in names}
        self.bad = sorted({bad for note in notes.values() for bad in note["note"]["not_finite"]})
        storage = {}
        for name, items in zip(names, self.groups, strict=True):
            for item, (start, length) in zip(items, notes[name]["note"]["places"], strict=True):
                storage[item.index] = _StorageInfo(name, start, length)
        self.format.metadata.storage_data = storage
        partial = self.parts.partial
        (partial / ".metadata").write_bytes(pickle.dumps(self.format.metadata))
        strategy = TorchDistSaveShardedStrategy()
        index = asdict(CheckpointingConfig(strategy.backend, strategy.version))
        write_durably(partial / CONFIG_FNAME, json.dumps(index))
        write_durably(partial / files.STATE, json.dumps(STATE, indent=1))
        self._write_folder(partial / provenance.FOLDER)
        described = {name: {"size": n["size"], "blake3": n["digest"]} for name, n in notes.items()}
        others = sorted(set(files.file_names(partial)) - described.keys() - self.parts.own_files())
        manifest = Manifest(
            model=self.plan.family.model_dump(mode="json"),
            layout=Layout().model_dump(mode="json"),
            precision=self.precision,
            has_optimizer=False,
            has_reference=False,
            files=described | {name: files.describe(partial / name) for name in others},
        )
        self.parts.sweep()
        files.finish(self.parts.target, manifest)

    def _write_folder(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for name, content in provenance.files_to_carry(self.source, self.plan.family).items():
            (folder / name).write_bytes(content)
        blocks = [name for weight in self.plan.weights for name in weight.hf if self.source.in_blocks(name)]
        if blocks:
            planned = [Planned(n, torch.float32, tuple(self.source.scales(n).shape)) for n in blocks]
            with (folder / provenance.SCALES).open("wb") as file:
                file.write(header_of(planned))
                for name in blocks:
                    file.write(bytes_of(self.source.scales(name)))


def check_cover(items: Sequence[WriteItem], weights: Sequence[Weight]) -> None:
    """Raises CheckpointError unless weight table and model hold the same weights with the same sizes."""
    table = by_name(weights)
    found: Counter[str] = Counter()
    for item in items:
        if item.tensor_data is not None:
            chunk = item.tensor_data.chunk
            found[place_of(item.index.fqn, chunk.offsets, chunk.sizes).name] += prod(chunk.sizes)
    unknown = sorted(name for name in found if name not in table)
    held = {table[name].megatron: size for name, size in found.items() if name in table}
    wrong = sorted(w.megatron for w in weights if held.get(w.megatron) != prod(w.shape))
    if unknown or wrong:
        raise CheckpointError(
            f"the family's table and Megatron's model differ: no row for {unknown[:MOST_NAMED]}, "
            f"no weight of the table's size for {wrong[:MOST_NAMED]}"
        )


def _save(value: Tensor, file: HashedFile) -> None:
    """torch.save; a full disk is raised as the OSError, not as the zip writer's RuntimeError."""
    try:
        torch.save(value, file)  # type: ignore[arg-type]
    except RuntimeError as error:  # "unexpected pos", raised while the OSError propagates
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        file.settle()


@contextmanager
def _no_crc() -> Iterator[None]:
    """Within: torch.save writes no CRC-32: the manifest has a hash, and torch.load checks no CRC."""
    before = serialization.get_crc32_options()
    serialization.set_crc32_options(False)
    try:
        yield
    finally:
        serialization.set_crc32_options(before)


def on_each(mine: Sequence[str], *, progress: Callable[[], None]) -> Iterator[str | None]:
    """This rank's names, then None until the rank with the most is done. Collective at each step."""
    for i in range(max(gather(len(mine)))):
        yield mine[i] if i < len(mine) else None
        progress()


def checkpoint_format(family: FamilyConfig, precision: Precision) -> _Format:
    """The format of a whole model, unsharded."""
    options = ModelOptions(precision=precision)
    with torch.device("meta"):
        chunks = build_model(family, Layout(), options, on=torch.device("meta"))
        state = {"weights": {"0": chunks[0].sharded_state_dict(metadata={"singleton_local_shards": False})}}
    tensors, _ = save_preprocess(state, validate_access_integrity=False)
    for part in nested_values(
        tensors
    ):  # every rank describes the whole model: ranks share files, not tensors
        part.replica_id = 0
    tensors["common_state"] = ShardedObject("common_state", {}, (1,), (0,), replica_id=0)
    named, _, _ = _replace_state_dict_keys_with_sharded_keys(tensors, True)
    planner = MCoreSavePlanner(
        dedup_replicated_tensors=False, flatten_state_dict=False, flatten_sharded_tensors=False
    )
    planner.set_up_planner(mcore_to_pyt_state_dict(named, False), None, True)
    plan = planner.create_local_plan()
    _, metadata = planner.create_global_plan([plan])
    assert all(p.dtype == parameter_dtype(precision) for p in chunks[0].parameters())
    return _Format(planner, plan.items, metadata)


def _groups(items: Sequence[WriteItem]) -> Iterator[list[WriteItem]]:
    """The items of each file, in the model's order, so that the source is read sequentially."""
    group: list[WriteItem] = []
    size = 0
    for item in items:
        if group and size + _num_bytes(item) > PART_BYTES:
            yield group
            group, size = [], 0
        group.append(item)
        size += _num_bytes(item)
    yield group


def _num_bytes(item: WriteItem) -> int:
    if item.tensor_data is None:
        return 0
    return torch.Size(item.tensor_data.chunk.sizes).numel() * item.tensor_data.properties.dtype.itemsize
