"""The profile of a step: phases, kinds and FLOPs, counted by hand."""

import gzip
import json
import time
from pathlib import Path

import torch
from torch.profiler import profile

from megatron_r1.runtime.step_profile import StepProfile, by_phase, kind_of, phase, table


def test_operations_count_in_the_innermost_phase_that_is_open():
    a = torch.ones(64, 64, requires_grad=True)
    with profile(with_flops=True) as found:
        with phase("training"):
            loss = (a @ a).sum()
            with phase("optimizer"):
                torch.cat([a, a])
            loss.backward()  # in a thread of its own, which has no phase
        a @ a
    phases = by_phase(found.events(), 1.0)
    assert set(phases) == {"training", "optimizer", "other"}
    product = 2 * 64**3
    assert phases["training"].flops >= 3 * product > phases["training"].flops - 3 * 64**2
    assert phases["optimizer"].flops == 0
    assert phases["optimizer"].kinds["copies and indexing"] > 0
    assert phases["other"].flops == product
    assert abs(sum(one.seconds for one in phases.values()) - 1.0) < 1e-9


def test_the_second_step_leaves_a_trace_and_a_table(tmp_path: Path):
    profiled = StepProfile(tmp_path / "zero" / "profile", torch.device("cpu"))
    for step in (0, 1, 2, 3):
        with phase("rollout"):
            torch.ones(8, 8) @ torch.ones(8, 8)
            time.sleep(0.01 * step)
        profiled.step(step)
    folder = tmp_path / "zero" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["step_00002.md", "step_00002.trace.json.gz"]
    text = (folder / "step_00002.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| rollout |"))
    assert text.startswith("# Step 2 of zero, rank 0: 0.0")
    assert 0.02 <= float(row.split("|")[2]) < 0.03 + 0.5  # that of step 2
    with gzip.open(folder / "step_00002.trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert any(event.get("name") == "aten::mm" for event in events)


def test_kinds():
    assert kind_of("aten::addmm") == "matrix products"
    assert kind_of("aten::_scaled_dot_product_flash_attention_for_cpu") == "attention"
    assert kind_of("gloo:all_reduce") == "communication"
    assert kind_of("Optimizer.step#Adam.step") is None


def test_the_floor_is_the_products_at_the_best_rate():
    phases = by_phase([], 2.0)
    phases["other"].flops = 3e9
    assert table(phases, best=6e9).splitlines()[2].endswith("| 2.000 | 3.000 | 0.500 |")
