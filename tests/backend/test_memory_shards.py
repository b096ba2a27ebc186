"""Planned shards against DeepSeek-V3's published size, and against what real gloo ranks allocate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.harness.plan import TWO
from tests.distributed.harness.ranks import Scenario, run_scenarios

REPOSITORY = Path(__file__).parents[2]
V3_PARAMETERS = 671_026_419_200  # of the published checkpoint: embedding, head and router biases, without MTP
V3_MTP = 11_610_067_968 + 256  # one depth, and its router's biases
# bf16 has masters of its own; each layout is tried with one of the two
PRECISIONS = {name: "bf16" if index % 2 else "fp32" for index, name in enumerate(TWO)}
# (family, layout)
CASES = [*(("v3", name) for name in TWO), ("qwen2", "dp2"), ("qwen2", "tp2"), ("qwen2", "pp2")]

PLANNED = """
import json, sys
from dataclasses import asdict
from megatron_r1.config.layout import Layout
from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.backend.memory_shards import shards
from tests.distributed.scenarios.models import FAMILIES
found = []
for family, layout, precision in json.loads(sys.argv[1]):
    options = ModelOptions(precision=precision)
    found.append([asdict(shard) for shard in shards(FAMILIES[family], Layout(ranks=2, **layout), options)])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def planned() -> dict[tuple[str, str], list[dict]]:
    words = json.dumps([(family, TWO[name], PRECISIONS[name]) for family, name in CASES])
    done = subprocess.run(
        [sys.executable, "-c", PLANNED, words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    scenarios = [
        Scenario(f"{family}_{name}", "memory.allocated", TWO[name],
                 {"family": family, "precision": PRECISIONS[name]})
        for family, name in CASES
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("real")
    return run_scenarios(2, scenarios, folder, shared=folder)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), CASES)
def test_all_ranks_together_hold_exactly_what_was_planned(planned, real, family, name):
    shards, ranks = planned[family, name], real.ranks(f"{family}_{name}")
    each = 2 // len(shards)  # ranks a pipeline stage
    assert sum(rank["parameters"] for rank in ranks) == sum(shard["parameters"] * each for shard in shards)
    assert sum(rank["gradient_bytes"] for rank in ranks) == sum(s["gradient_bytes"] * each for s in shards)
    elements = sum(
        sum(shard[part]) * each // len(shard[part])
        for shard in shards
        for part in ("optimizer_dense", "optimizer_expert")
    )
    assert sum(rank["moments"] for rank in ranks) == elements * 8
    assert sum(rank["masters"] for rank in ranks) == (elements * 4 if PRECISIONS[name] == "bf16" else 0)


@pytest.mark.slow
def test_the_671b_model_on_2048_ranks_in_half_a_minute_and_2_gb():
    code = """
import json, resource, time
import megatron_r1.backend.memory_shards
from megatron_r1.backend.memory_shards import shards
from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.run.config import load_run
from pathlib import Path
large = ["layout.ranks=2048", "layout.expert=64", "layout.context=1"]
run = load_run(Path("conf/r1_zero_671b.yaml"), overrides=large).value
began = time.process_time()
found = shards(run.model, run.layout, ModelOptions(precision="bf16"))
print(json.dumps([run.layout.ranks, sum(s.whole for s in found), sum(s.whole_mtp for s in found),
                  time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no word of a library on a good start"
    ranks, whole, mtp, seconds, peak_kib = json.loads(done.stdout.splitlines()[-1])
    assert (ranks, whole, mtp) == (2048, V3_PARAMETERS, V3_MTP)
    assert seconds < 30, "of CPU time: the machine may be busy"
    assert peak_kib < 2 * 1024**2
