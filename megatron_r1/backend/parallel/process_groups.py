"""Process groups of a layout, and the communication between data-parallel ranks that stages use."""

import gc
import io
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from megatron_r1.config.layout import Layout

_pretended: torch.device | None = None  # backend/memory_shards.py builds models without memory


def _state() -> dict[str, Any]:
    """Megatron's process groups, all of which are globals of one module."""
    return {
        name: value
        for name, value in vars(parallel_state).items()
        if name.startswith("_") and (name.isupper() or name == "_global_process_group_list")
    }


_NO_GROUPS = _state()
_second: dict[Layout, dict[str, Any]] = {}  # groups of layouts other than the trained model's


@contextmanager
def pretend(device: torch.device) -> Iterator[None]:
    """Within: `device()` returns this device."""
    global _pretended
    _pretended, before = device, _pretended
    try:
        yield
    finally:
        _pretended = before


def device() -> torch.device:
    """The device on which this rank computes."""
    if _pretended is not None:
        return _pretended
    if torch.cuda.is_available() and torch.version.cuda:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def start(layout: Layout, *, timeout_s: float = 1800.0) -> None:
    """Start torch.distributed (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set) and build the groups.

    timeout_s: of collectives."""
    if not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    assert dist.get_world_size() == layout.ranks, f"{dist.get_world_size()} ranks for {layout.ranks}"
    build_groups(layout)


def build_groups(layout: Layout, *, gloo: bool = True) -> None:
    """Megatron's process groups; replaces those of an earlier layout.

    gloo: also build gloo groups, which optimizer checkpoints need; backend/memory_shards.py doesn't.
    """
    _leave_groups()
    _initialize(layout, gloo=gloo)
    # Megatron needs its random state trackers. Their seed has no effect: dropout is 0 and weights have their
    # own generators (backend/model/init_weights.py).
    model_parallel_cuda_manual_seed(0, force_reset_rng=True)


@contextmanager
def groups_of(layout: Layout) -> Iterator[None]:
    """Within: Megatron's groups are those of another layout of the same ranks. A collective call.

    Megatron has one set of groups a process, which its modules and ours also read at run time. So the sets
    are swapped; modules built within keep their groups.
    """
    training = _state()
    vars(parallel_state).update(_second.get(layout, _NO_GROUPS))
    try:
        if layout not in _second:
            _initialize(layout, gloo=False)
            _second[layout] = _state()
        yield
    finally:
        vars(parallel_state).update(training)


def _initialize(layout: Layout, *, gloo: bool) -> None:
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        context_parallel_size=layout.context,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=layout.expert_tensor,
        create_gloo_process_groups=gloo,
    )


def _leave_groups() -> None:
    """Destroy Megatron's groups. It only drops them, and each keeps three gloo threads until destroyed."""
    if not parallel_state.model_parallel_is_initialized():
        return
    parallel_state.destroy_model_parallel()
    _second.clear()
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)


def stop() -> None:
    """Destroy all groups. Models hold theirs in reference cycles: collect these, or gloo's threads stay."""
    _leave_groups()
    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()


class MegatronReplicas:
    """types.Replicas over Megatron's data-parallel group."""

    def __init__(self) -> None:
        self.index = parallel_state.get_data_parallel_rank()
        self.count = parallel_state.get_data_parallel_world_size()
        self.is_main = dist.get_rank() == 0
        self._group = parallel_state.get_data_parallel_group()
        # the tensor, pipeline and context ranks of this data-parallel rank
        self._replica = _replica_group()
        self.leads = self._replica is None or dist.get_rank(self._replica) == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        names = sorted(values)
        totals = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device())
        dist.all_reduce(totals, group=self._group)
        return dict(zip(names, totals.tolist(), strict=True))

    def gather(self, items: Sequence[Any]) -> list[Any]:
        if self.count == 1:
            return list(items)
        lists: list[Any] = [None] * self.count
        dist.all_gather_object(lists, list(items), group=self._group)
        return [item for part in lists for item in part]

    def exchange(self, outgoing: Sequence[Sequence[Any]]) -> list[Any]:
        assert len(outgoing) == self.count, f"{len(outgoing)} lists for {self.count} copies"
        if self.count == 1:
            return list(outgoing[0])
        parts = [_pickled(list(part)) for part in outgoing]
        sizes = torch.tensor([len(part) for part in parts], device=device())
        incoming = torch.empty_like(sizes)
        dist.all_to_all_single(incoming, sizes, group=self._group)
        theirs = incoming.tolist()
        box = torch.empty(sum(theirs), dtype=torch.uint8, device=device())
        sent = torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8).to(device())
        dist.all_to_all_single(box, sent, theirs, sizes.tolist(), group=self._group)
        return [item for part in box.cpu().split(theirs) for item in pickle.loads(part.numpy())]

    def share(self, make: Callable[[], Any]) -> Any:
        if self._replica is None:
            return make()
        ranks = dist.get_process_group_ranks(self._replica)
        box = [make() if dist.get_rank() == ranks[0] else None]
        dist.broadcast_object_list(box, src=ranks[0], group=self._replica)
        return box[0]

    def any_rank(self, flag: bool) -> bool:
        box = torch.tensor([int(flag)], device=device())
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return bool(box)

    def barrier(self) -> None:
        dist.barrier()


class _Pickler(pickle.Pickler):
    """Pickles tensors as numpy arrays: torch's own pickling takes longer than computing a short sequence."""

    def reducer_override(self, obj: Any) -> Any:
        return (torch.from_numpy, (obj.numpy(),)) if type(obj) is torch.Tensor else NotImplemented


def _pickled(value: Any) -> bytes:
    """value: with tensors on the CPU."""
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def _replica_group() -> Any:
    """The group of this data-parallel rank's own ranks; None if it is one rank. A collective call."""
    mine = parallel_state.get_data_parallel_rank()
    world = dist.get_world_size()
    indices: list[Any] = [None] * world
    dist.all_gather_object(indices, mine)
    found = None
    for index in range(max(indices) + 1):
        ranks = [rank for rank in range(world) if indices[rank] == index]
        if len(ranks) > 1:
            group = dist.new_group(ranks, backend="gloo")
            if index == mine:
                found = group
    return found
