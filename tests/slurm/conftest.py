"""The private cluster, started once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import cluster
from tests.slurm.runs import LAYOUT, SMALL, Cluster, job_ids


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = cluster.missing()
    if reason is not None:
        pytest.skip(f"needs SLURM's programs: {reason}")
    with cluster.running(tmp_path_factory.mktemp("slurm")) as conf:
        found = Cluster(conf)
        yield found
        found.cancel_all()


@pytest.fixture(scope="session")
def runs(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs in the queue at once: one that ends well, and one whose first stage fails."""
    folder = tmp_path_factory.mktemp("runs")
    good, bad = folder / "good", folder / "bad"
    slurm.submit(good, *LAYOUT)
    slurm.submit(bad, *SMALL, "stages.base.optim.lr=1e30")
    jobs = [*job_ids(good).values(), *job_ids(bad).values()]
    slurm.watched = slurm.watch(good, until=lambda: all(slurm.is_over(job) for job in jobs))
    return good, bad
