"""The results of all scenarios of a size: run once a session, by the first test that asks."""

from pathlib import Path

import pytest

from tests.distributed.harness import hf_models, hf_plan, plan
from tests.distributed.harness.ranks import Results, run_scenarios


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


@pytest.fixture(scope="session")
def hf_shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With transformers' models in its folder `hf`."""
    folder = tmp_path_factory.mktemp("hf_shared")
    hf_models.write_all(folder / "hf")
    return folder


@pytest.fixture(scope="session")
def hf_one(hf_shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_scenarios(1, hf_plan.ONE_RANK, tmp_path_factory.mktemp("hf_one"), shared=hf_shared)


@pytest.fixture(scope="session")
def hf_two(hf_one: Results, hf_shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_scenarios(2, hf_plan.TWO_RANKS, tmp_path_factory.mktemp("hf_two"), shared=hf_shared)


@pytest.fixture(scope="session")
def hf_four(hf_shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_scenarios(4, hf_plan.FOUR_RANKS, tmp_path_factory.mktemp("hf_four"), shared=hf_shared)
