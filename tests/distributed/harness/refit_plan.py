"""Training layouts with another one for the rollout, by name."""

from typing import Any

from tests.distributed.harness.ranks import Scenario

# (training layout, rollout layout)
TWO: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "pp2_to_dp2": ("v3", {"pipeline": 2}, {}),
    "pp2_vpp2_to_ep2": ("v3", {"pipeline": 2, "virtual_pipeline": 2}, {"expert": 2}),
    "ep2_to_dp2": ("v3", {"expert": 2}, {}),
    "tp2_etp2_to_ep2": ("v3", {"tensor": 2, "expert_tensor": 2}, {"expert": 2}),
    "dp2_to_tp2_ep2": ("v3", {}, {"tensor": 2, "expert": 2}),
    "tied_pp2_to_dp2": ("qwen2", {"pipeline": 2}, {}),
    "tied_dp2_to_pp2": ("qwen2", {}, {"pipeline": 2}),
    "same_pp2": ("v3", {"pipeline": 2}, {"pipeline": 2, "distributed_optimizer": False}),
}
FOUR = {"ep2_pp2_to_ep4": ("v3", {"expert": 2, "pipeline": 2}, {"expert": 4})}


def _scenarios(cases: dict[str, tuple[str, dict[str, Any], dict[str, Any]]]) -> list[Scenario]:
    return [
        Scenario(f"refit_{name}", "refits.refitted", layout, {"family": family, "rollout": rollout})
        for name, (family, layout, rollout) in cases.items()
    ]


ODD = 67  # tokens: two tensor ranks pad them, one doesn't
TWO_RANKS = [
    *_scenarios(TWO),
    Scenario(
        "refit_padded_vocabulary",
        "refits.refitted",
        {"tensor": 2},
        {"family": "qwen2", "rollout": {}, "vocabulary": ODD},
    ),
]
FOUR_RANKS = _scenarios(FOUR)
