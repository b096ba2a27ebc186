"""Ranks that write or read files together: what fails on one of them fails on all, with the same words."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from megatron_r1.errors import CheckpointError


def share[T](items: Sequence[T]) -> Sequence[T]:
    """Every rank's part of a list that all ranks have."""
    return items[dist.get_rank() :: dist.get_world_size()]


def gather[T](value: T) -> list[T]:
    """Every rank's value, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_first_rank[T](what: str, action: Callable[[], T]) -> T:
    """Do it on rank 0; every rank gets what it returned, or raises what it raised."""
    return gather(on_all_ranks(what, lambda: action() if dist.get_rank() == 0 else None))[0]  # type: ignore[return-value]


def on_all_ranks[T](what: str, action: Callable[[], T]) -> T:
    """Do it, then agree: where it failed on any rank, all ranks raise the same CheckpointError."""
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
    """What went wrong and on which rank; torch's own collectives collect every rank's exceptions."""
    if isinstance(error, CheckpointException):
        first, (cause, _) = min(error.failures.items())
        return reason(cause, first)
    if isinstance(error, CheckpointError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"rank {rank}: {error.strerror}{place}"
    return f"rank {rank}: {type(error).__name__}: {error}"
