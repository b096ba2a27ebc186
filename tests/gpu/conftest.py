"""One rank in this process, on the GPU where there is one.

What needs CUDA is marked gpu and skipped elsewhere. The rest runs on a CPU as well, by the same lines, so
that no GPU is needed to find their mistakes.
"""

import os
import socket
from collections.abc import Iterator

import pytest

from megatron_r1.backend.parallel import process_groups
from megatron_r1.config.layout import Layout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or process_groups.device().type == "cuda":
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="needs CUDA, and torch sees no device here"))


@pytest.fixture(scope="module")
def rank() -> Iterator[None]:
    """This process as the only rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RANK": 0,
            "WORLD_SIZE": 1,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }.items():
            patch.setitem(os.environ, name, str(value))
        process_groups.start(Layout())
        yield
        process_groups.stop()
