"""Prefetch: the next tensor is read while this one is hashed and written."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor


def prefetched[T](items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread computes the next one while the current one is in use."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
