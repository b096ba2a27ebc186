"""The scenarios of routing replay and truncated log-probs; part of plan.py's lists."""

from typing import Any

from tests.distributed.harness.ranks import Scenario

TWO: dict[str, dict[str, Any]] = {
    "dp2": {},
    "ep2": {"expert": 2},
    "tp2": {"tensor": 2},
    "pp2": {"pipeline": 2},
    "cp2": {"context": 2},
}
FOUR = {
    "tp2_pp2": {"tensor": 2, "pipeline": 2},
    "ep2_pp2_vpp2": {"expert": 2, "pipeline": 2, "virtual_pipeline": 2},
}
TEMPERATURES = (1.0, 0.7)
CUT = {"temperature": 0.8, "top_p": 0.7}
RECOMPUTE = ("full", "selective")


def _truncated(name: str, layout: dict[str, Any]) -> list[Scenario]:
    return [
        Scenario(f"truncated_{t}_{name}", "replay.truncated_by_hand", layout, {"temperature": t})
        for t in TEMPERATURES
    ]


ONE_RANK = [
    Scenario("replay_one", "replay.drift"),
    Scenario("nucleus_one", "replay.drift", {}, CUT),
    Scenario("routed_one", "replay.routed_steps"),
    Scenario("unrouted_one", "replay.routed_steps", {}, {"routed": False}),
    *(Scenario(f"routed_{how}", "replay.routed_steps", {}, {"recompute": how}) for how in RECOMPUTE),
    Scenario("replay_gates", "replay.gates"),
    Scenario("ratio_one", "replay.on_policy_ratio"),
    Scenario("foreign_attention", "replay.foreign_attention"),
    *_truncated("one", {}),
]
TWO_RANKS = [
    *(Scenario(f"replay_{name}", "replay.drift", layout) for name, layout in TWO.items()),
    *(Scenario(f"nucleus_{name}", "replay.drift", layout, CUT) for name, layout in TWO.items()),
    *(Scenario(f"routed_{name}", "replay.routed_steps", layout) for name, layout in TWO.items()),
    Scenario("routed_dealt_ep2", "replay.routed_steps", TWO["ep2"], {"dealt": True}),
    Scenario("routed_full_pp2", "replay.routed_steps", TWO["pp2"], {"recompute": "full"}),
    *(Scenario(f"ratio_{name}", "replay.on_policy_ratio", TWO[name]) for name in ("tp2", "cp2")),
    *_truncated("tp2", TWO["tp2"]),
]
FOUR_RANKS = [Scenario(f"routed_{name}", "replay.routed_steps", layout) for name, layout in FOUR.items()]
