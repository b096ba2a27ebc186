"""The results of all scenarios of a size: run once a session, by the first test that asks."""

from pathlib import Path

import pytest

from tests.backend import plan
from tests.backend.ranks import Results, run_scenarios


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def one(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_scenarios(1, plan.ONE_RANK, tmp_path_factory.mktemp("one"), shared=shared)


@pytest.fixture(scope="session")
def two(one: Results, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_scenarios(2, plan.TWO_RANKS, tmp_path_factory.mktemp("two"), shared=shared)


@pytest.fixture(scope="session")
def four(one: Results, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_scenarios(4, plan.FOUR_RANKS, tmp_path_factory.mktemp("four"), shared=shared)
