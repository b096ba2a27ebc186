"""Scenarios of rollouts in FP8: see plan.py."""

from tests.distributed.harness.ranks import Scenario

SAMPLED = ("v3", "v3_plain", "qwen2")
# name -> family, layout, and the rollout's own
TWO = {
    "tp2": ("qwen2", {"tensor": 2}, None),
    "ep2": ("v3", {"expert": 2}, None),
    "tp2_etp2": ("v3", {"tensor": 2, "expert_tensor": 2}, None),
    "ep2_to_dp2": ("v3", {"expert": 2}, {"ranks": 2}),
}

ONE_RANK = [
    *(Scenario(f"fp8_{family}", "fp8_rollouts.sample", {}, {"family": family}) for family in SAMPLED),
    Scenario("fp8_drafted", "fp8_rollouts.drafted"),
    Scenario("fp8_corrected", "fp8_rollouts.corrected"),
    Scenario("fp8_refused", "fp8_rollouts.refused"),
]
TWO_RANKS = [
    Scenario(
        f"fp8_{name}", "fp8_rollouts.sample", layout, {"family": family, "own_layout": own, "whole": False}
    )
    for name, (family, layout, own) in TWO.items()
]
