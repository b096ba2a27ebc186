"""The model of activations against what autograd keeps on real ranks: within a tenth."""

import pytest

from megatron_r1.config.layout import Layout
from megatron_r1.plan.activations import kept
from tests.distributed.harness.ranks import Scenario, run_scenarios
from tests.distributed.scenarios.activations import LENGTH, SEQUENCES
from tests.distributed.scenarios.models import FAMILIES

pytestmark = pytest.mark.slow

# (family, layout, precision, recompute, mtp)
CASES = {
    f"{family}_{name}_{precision}_{recompute}{'_mtp' * mtp}": (family, layout, precision, recompute, mtp)
    for family, name, layout, precision, recompute, mtp in (
        ("v3", "dp2", {}, "fp32", "none", False),
        ("v3", "dp2", {}, "fp32", "none", True),
        ("v3", "dp2", {}, "bf16", "none", False),
        ("v3", "dp2", {}, "bf16", "selective", False),
        ("v3", "dp2", {}, "bf16", "full", False),
        ("v3", "ep2", {"expert": 2}, "bf16", "none", False),
        ("v3", "cp2", {"context": 2}, "bf16", "none", False),
        ("v3_plain", "dp2", {}, "fp32", "none", False),
        ("qwen2", "dp2", {}, "fp32", "none", False),
        ("qwen2", "tp2", {"tensor": 2}, "bf16", "none", False),
        ("qwen2", "dp2", {}, "bf16", "selective", False),
    )
}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    scenarios = [
        Scenario(name, "activations.kept", layout,
                 {"family": family, "precision": precision, "recompute": recompute, "mtp": mtp})
        for name, (family, layout, precision, recompute, mtp) in CASES.items()
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("real")
    return run_scenarios(2, scenarios, folder, shared=folder)


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_within_a_tenth_of_what_real_ranks_keep(real, name):
    family, degrees, precision, recompute, mtp = CASES[name]
    config, shape, layout = FAMILIES[family], FAMILIES[family].shape(), Layout(ranks=2, **degrees)
    each = kept(
        config.transformer_config(),
        vocab_size=shape.vocab_size,
        dtype_bytes=2 if precision == "bf16" else 4,
        recompute=recompute,
        engine=False,
        context=layout.context,
    )
    dense = shape.num_dense_layers if shape.num_experts else shape.num_layers
    a_token = dense * each.dense + (shape.num_layers - dense) * each.experts + each.head
    a_token += each.mtp * shape.num_mtp_layers * mtp
    planned = a_token * SEQUENCES * LENGTH / layout.context / layout.tensor
    measured = real.ranks(name)
    # experts are planned as evenly loaded: on average over the ranks they are
    assert planned == pytest.approx(sum(measured) / len(measured), rel=0.1)
