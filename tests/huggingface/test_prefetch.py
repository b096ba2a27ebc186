"""Items made ahead of their use."""

import threading
from collections.abc import Iterator

import pytest

from megatron_r1.huggingface.prefetch import prefetched


def test_the_next_is_made_while_one_is_in_use_and_no_more():
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for i, event in enumerate(made):
            event.set()
            yield i

    for i in prefetched(items()):
        assert i == 3 or made[i + 1].wait(10)
        assert not any(event.is_set() for event in made[i + 2 :])


def test_what_goes_wrong_while_an_item_is_made_comes_after_those_before():
    def items() -> Iterator[int]:
        yield 1
        raise OSError("cut")

    made = prefetched(items())
    assert next(made) == 1
    with pytest.raises(OSError, match="cut"):
        next(made)
