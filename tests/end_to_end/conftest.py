"""Runs that several tests look at, made once."""

from pathlib import Path

import pytest

from tests.end_to_end.micro_run import run


@pytest.fixture(scope="session")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_rank") / "micro"
    run(folder)
    return folder


@pytest.fixture(scope="session")
def two_replicas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_replicas") / "micro"
    run(folder, "layout.ranks=2", "stages.zero.rollout.overlap_rewards=true")
    return folder


@pytest.fixture(scope="session")
def expert_parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expert_parallel") / "micro"
    run(folder, "layout.ranks=2", "layout.expert=2")
    return folder
