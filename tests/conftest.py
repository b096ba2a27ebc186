"""Which tests share a worker where several run them: `pytest -n 2 --dist loadgroup`, as `make test` does.

All that starts ranks stays on one worker: a session's ranks start once, and while they wait for each other
the other worker has the time. Every other file is a group of its own, for the sake of its fixtures.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
STARTS_RANKS = ("backend", "end_to_end", "launch", "nemo", "slurm")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(TESTS)
        group = "ranks" if path.parts[0] in STARTS_RANKS else str(path)
        item.add_marker(pytest.mark.xdist_group(group))
