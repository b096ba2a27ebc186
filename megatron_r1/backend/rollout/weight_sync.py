"""Weight sync (refit): copy the trained weights into a model of another layout, verified by checksums.

Megatron's resharding moves the data (execute_reshard_plan and its copy services: gloo, NCCL). The plan is
made here from layout-free names and slices (backend/model/weight_slices.py), since megatron-core 0.19.2's
planner

- finds no experts of a SequentialMLP (it knows only grouped `weightN`);
- silently copies the wrong grouped expert where two layouts have equal data-parallel but other expert ranks
  (planner.py, _finalize_dp_transfers compares pg.dp, not the experts' group);
- reads only the first chunk of an interleaved pipeline;
- refuses a vocabulary whose padding depends on the layout.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.resharding import ReshardPlan, TransferOp, execute_reshard_plan
from megatron.core.resharding.copy_services.base import CopyService
from megatron.core.resharding.copy_services.gloo_copy_service import GlooCopyService
from megatron.core.resharding.copy_services.nccl_copy_service import NCCLCopyService
from torch import Tensor

from megatron_r1.backend.model.weight_slices import Piece, Place, pieces
from megatron_r1.backend.parallel.collectives import gather
from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.errors import CheckpointError
from megatron_r1.types import Refits

# integers by size in bytes: a checksum adds up bits as integers, so the order of addition doesn't matter
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SUMMED = 1 << 24  # elements that a checksum reads at a time
MODULUS = 1 << 64

Box = tuple[range, range]  # rows and columns of a whole weight
Holder = tuple[int, int]  # rank, index among its pieces


@dataclass(frozen=True, slots=True)
class _Held:
    """The metadata of a rank's piece of a weight."""

    name: str
    box: Box
    dtype: torch.dtype


class Refitter:
    """Copies the weights of `source` into `target` at every `refit()`; the plan is made once."""

    def __init__(
        self,
        source: Sequence[GPTModel],
        target: Sequence[GPTModel],
        *,
        inside: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """inside: returns a context in which Megatron's groups are the target's. A collective call."""
        self.source, self.target, self.inside = source, target, inside
        theirs = gather(([_held(p) for p in pieces(source)], [_held(p) for p in self._target_pieces()]))
        self.rows = _common_rows(theirs)
        self.plan, self.num_bytes = _plan(theirs, rank=dist.get_rank())
        service = GlooCopyService if device().type == "cpu" else NCCLCopyService
        self.service: CopyService = service()

    def refit(self) -> Refits:
        """Copy, then compare checksums. CheckpointError names a weight that differs. A collective call."""
        began = time.perf_counter()
        # looked up at every call: training moves the parameters into its buffers
        source, target = list(pieces(self.source)), self._target_pieces()
        execute_reshard_plan(self.plan, _Tensors(source), _Tensors(target), self.service)
        self._compare(source, target)
        return Refits(count=1, num_bytes=self.num_bytes, seconds=time.perf_counter() - began)

    def compare(self) -> None:
        """Raises CheckpointError naming a weight that differs between the models. A collective call."""
        self._compare(list(pieces(self.source)), self._target_pieces())

    def _target_pieces(self) -> list[Piece]:
        with self.inside():
            return list(pieces(self.target))

    def _compare(self, source: Sequence[Piece], target: Sequence[Piece]) -> None:
        mine = self._checksums(source), self._checksums(target)
        trained, copied = (_whole_sums(parts, where) for parts, where in zip(
            zip(*gather(mine), strict=True), ("training", "the rollout"), strict=True
        ))  # fmt: skip
        wrong = sorted(name for name in trained if trained[name] != copied[name])
        if wrong:
            more = f" and {len(wrong) - 1} other weights" if len(wrong) > 1 else ""
            raise CheckpointError(
                f"refit: {wrong[0]}{more} of the rollout's layout is not what trains: checksum "
                f"{copied[wrong[0]]:016x}, in training {trained[wrong[0]]:016x}; without rollout.layout "
                "the rollout reads the weights that train"
            )

    def _checksums(self, held: Sequence[Piece]) -> list[tuple[str, tuple[int, ...], int]]:
        """(name, rows and columns, checksum) of this rank's pieces."""
        found = []
        for piece in held:
            rows, columns = _box(piece.place)
            limit, width = self.rows[piece.place.name]
            value = checksum(piece.data, rows=rows, first_column=columns.start, width=width, limit=limit)
            found.append((piece.place.name, (rows.start, rows.stop, columns.start, columns.stop), value))
        return found


def checksum(data: Tensor, *, rows: range, first_column: int, width: int, limit: int) -> int:
    """sum of bits x (2 x index + 1) modulo 2**64, where index is the element's in the whole weight.

    data: [rows, columns] of a weight with `width` columns; rows from `limit` on are padding. The checksums of
    a weight's pieces add up to the same number in every layout; swapping two elements changes it.
    """
    total = 0
    bits = data.detach().reshape(len(rows), -1)[: max(0, limit - rows.start)]
    step = max(1, SUMMED // max(1, bits.shape[1]))
    columns = first_column + torch.arange(bits.shape[1], device=bits.device)
    for start in range(0, len(bits), step):
        part = bits[start : start + step].contiguous().view(BITS[bits.element_size()]).long()
        row = rows.start + start + torch.arange(len(part), device=bits.device)
        weighted = (part * (2 * columns + 1)).sum(1) + part.sum(1) * row * (2 * width)
        total += int(weighted.sum())
    return total % MODULUS


def _whole_sums(parts: Sequence[Sequence[tuple[str, tuple[int, ...], int]]], where: str) -> dict[str, int]:
    """Checksums of whole weights from all ranks' pieces; ranks that hold the same piece must agree."""
    seen: dict[tuple[str, tuple[int, ...]], int] = {}
    for rank, part in enumerate(parts):
        for name, place, value in part:
            if seen.setdefault((name, place), value) != value:
                raise CheckpointError(f"refit: rank {rank} has another {name} in {where} than other ranks")
    totals: dict[str, int] = defaultdict(int)
    for (name, _), value in seen.items():
        totals[name] = (totals[name] + value) % MODULUS
    return totals


class _Tensors(torch.nn.Module):
    """Pieces as named buffers of a module, which is what Megatron's executor takes."""

    def __init__(self, held: Sequence[Piece]) -> None:
        super().__init__()
        for index, piece in enumerate(held):
            self.register_buffer(_name(index), piece.data.detach().view(len(piece.place.rows), -1))


def _name(index: int) -> str:
    return f"piece{index}"


def _box(place: Place) -> Box:
    return place.rows, range(1) if place.columns is None else place.columns


def _held(piece: Piece) -> _Held:
    return _Held(piece.place.name, _box(piece.place), piece.data.dtype)


Everyone = Sequence[tuple[list[_Held], list[_Held]]]  # by rank, its pieces of the source and of the target


def _common_rows(theirs: Everyone) -> dict[str, tuple[int, int]]:
    """Rows (without padding) and columns of every weight; both models must have the same ones."""
    sides: list[dict[str, tuple[int, int]]] = [{}, {}]
    for rank in theirs:
        for side, helds in zip(sides, rank, strict=True):
            for held in helds:
                rows, columns = side.get(held.name, (0, 0))
                side[held.name] = (max(rows, held.box[0].stop), max(columns, held.box[1].stop))
    source, target = sides
    assert source.keys() == target.keys(), f"only one model has {sorted(source.keys() ^ target.keys())[:4]}"
    assert all(source[name][1] == target[name][1] for name in source)
    return {name: (min(source[name][0], target[name][0]), source[name][1]) for name in source}


def _plan(theirs: Everyone, *, rank: int) -> tuple[ReshardPlan, int]:
    """This rank's transfers, and the bytes that all ranks together send to other ranks."""
    sources: dict[str, dict[Box, list[Holder]]] = defaultdict(lambda: defaultdict(list))
    for owner, (held, _) in enumerate(theirs):
        for index, piece in enumerate(held):
            sources[piece.name][piece.box].append((owner, index))
    plan, num_bytes = ReshardPlan([], []), 0
    for task, (taker, index, giver, box) in enumerate(_moves(theirs, sources)):
        given, taken = theirs[giver[0]][0][giver[1]], theirs[taker][1][index]
        assert given.dtype == taken.dtype, f"{given.name}: {given.dtype} trains, {taken.dtype} samples"
        if giver[0] != taker:
            num_bytes += prod(map(len, box)) * given.dtype.itemsize
        given_slice, taken_slice = _within(box, given.box), _within(box, taken.box)
        if giver[0] == rank:
            plan.send_ops.append(TransferOp(_name(giver[1]), taker, True, given_slice, taken_slice, task))
        if taker == rank:
            plan.recv_ops.append(TransferOp(_name(index), giver[0], False, taken_slice, given_slice, task))
    return plan, num_bytes


def _moves(
    theirs: Everyone, sources: dict[str, dict[Box, list[Holder]]]
) -> Iterator[tuple[int, int, Holder, Box]]:
    """(receiving rank, index of its piece, sender, part of the weight), in the same order on every rank."""
    for taker, (_, wanted) in enumerate(theirs):
        for index, piece in enumerate(wanted):
            rows = max(box[0].stop for box in sources[piece.name])
            missing = max(0, min(piece.box[0].stop, rows) - piece.box[0].start) * len(piece.box[1])
            for box, holders in sources[piece.name].items():
                common = _overlap(box, piece.box)
                if not all(map(len, common)):
                    continue
                # from the receiving rank itself if it holds the part, else spread over those that do
                own = [holder for holder in holders if holder[0] == taker]
                yield taker, index, own[0] if own else holders[taker % len(holders)], common
                missing -= prod(map(len, common))
            assert missing == 0, f"{piece.name}: no rank holds {missing} of its elements"


def _overlap(a: Box, b: Box) -> Box:
    rows, columns = (range(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return rows, columns


def _within(part: Box, held: Box) -> tuple[slice, ...]:
    """The slices of a piece that hold a part of the weight."""
    return tuple(
        slice(inner.start - outer.start, inner.stop - outer.start)
        for inner, outer in zip(part, held, strict=True)
    )
