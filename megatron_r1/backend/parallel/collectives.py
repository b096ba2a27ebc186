"""Collective I/O: a failure on any rank is raised on all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from megatron_r1.errors import CheckpointError


def share[T](items: Sequence[T]) -> Sequence[T]:
    """This rank's part of a list that all ranks have."""
    return items[dist.get_rank() :: dist.get_world_size()]


def gather[T](value: T) -> list[T]:
    """The values of all ranks, by rank, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_first_rank[T](what: str, action: Callable[[], T]) -> T:
    """Run `action` on rank 0; every rank returns its result, or raises its error as a CheckpointError."""
    return gather(on_all_ranks(what, lambda: action() if dist.get_rank() == 0 else None))[0]  # type: ignore[return-value]


def on_all_ranks[T](what: str, action: Callable[[], T]) -> T:
    """Run `action` on every rank; if it failed on any, all ranks raise the same CheckpointError."""
    result, failure = None, None
    try:
        result = action()
    except CheckpointError as error:
        failure = str(error)
    except (OSError, CheckpointingException, CheckpointException) as error:
        failure = f"{what}: {reason(error, dist.get_rank())}"
    failures = [text for text in gather(failure) if text is not None]
    if failures:
        raise CheckpointError(failures[0])
    return result  # type: ignore[return-value]


def reason(error: BaseException, rank: int) -> str:
    """What went wrong and on which rank; torch's CheckpointException holds the errors of every rank."""
    if isinstance(error, CheckpointException):
        first, (cause, _) = min(error.failures.items())
        return reason(cause, first)
    if isinstance(error, CheckpointError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"rank {rank}: {error.strerror}{place}"
    return f"rank {rank}: {type(error).__name__}: {error}"
