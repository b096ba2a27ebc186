"""The private cluster, started once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.micro_run import REPOSITORY
from tests.slurm import cluster
from tests.slurm.runs import LAYOUT, SMALL, Cluster, job_ids

SAYS_ITS_CORES = "\nimport os\nprint('cores', sorted(os.sched_getaffinity(0)))\n"


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
    """Two runs in the queue at once: one that ends well, and one whose first stage fails.

    The second is submitted outside the repository and names a file there; its ranks are bound to two cores.
    """
    folder = tmp_path_factory.mktemp("the runs")
    good, bad = folder / "good", folder / "bad"
    own_reward = REPOSITORY / "examples" / "own_reward.py"
    arithmetic = REPOSITORY / "examples" / "toy" / "arithmetic.py"
    (folder / "own.py").write_text(own_reward.read_text() + SAYS_ITS_CORES)
    slurm.submit(good, *LAYOUT)
    bound = ("slurm.cpus_per_rank=2", "slurm.srun=[--cpu-bind=cores]", f"plugins=[{arithmetic}, own.py]")
    slurm.submit(bad, *SMALL, *bound, "stages.base.optim.lr=1e30", cwd=folder)
    jobs = [*job_ids(good).values(), *job_ids(bad).values()]
    slurm.watched = slurm.watch(good, until=lambda: all(slurm.is_over(job) for job in jobs))
    return good, bad
