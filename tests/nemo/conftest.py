"""Three engines on the same weights, in NeMo's environment: `make nemo` runs this folder.

Elsewhere there is nothing here to collect: what can be tested without NeMo is in tests/check/test_findings.py
and tests/backend/rollout/test_nemo_engine.py. pytest ends with an error (5: no tests) if it is given this
folder alone.
"""

from importlib import metadata

import pytest

from tests.distributed.harness import plan
from tests.distributed.harness.ranks import Results, Scenario, run_scenarios

try:
    metadata.version("nemo-toolkit")
except metadata.PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]

ENGINES = ("megatron", "dynamic", "nemo")
FAMILIES = ("qwen2", "qwen3_moe")
TWO = (("qwen2", "dp2"), ("qwen2", "tp2"), ("qwen2", "pp2"), ("qwen3_moe", "tp2"), ("qwen3_moe", "dp2"))


def _scenario(family: str, layout: str, engine: str) -> Scenario:
    keys = {} if layout == "one" else plan.TWO[layout]
    arguments = {"family": family, "engine": engine}
    # NeMo alone takes a minute to import on a busy machine
    return Scenario(f"{engine}_{family}_{layout}", "rollouts.sample", keys, arguments, timeout_s=400.0)


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every engine, in one process."""
    folder = tmp_path_factory.mktemp("one")
    scenarios = [
        *(_scenario(family, "one", engine) for family in FAMILIES for engine in ENGINES),
        *(
            Scenario(f"updates_{engine}", "nemo_rollouts.between_updates", {}, {"engine": engine})
            for engine in ("megatron", "nemo")
        ),
        Scenario("exception_inside", "rollouts.exception_inside", {}, {"family": "qwen2", "engine": "nemo"}),
    ]
    return run_scenarios(1, scenarios, folder, shared=folder)


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("two")
    scenarios = [_scenario(family, layout, "nemo") for family, layout in TWO]
    return run_scenarios(2, scenarios, folder, shared=folder)
