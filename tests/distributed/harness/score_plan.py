"""Which reward models run in which layouts."""

from tests.distributed.harness.ranks import Scenario

TWO = {
    "dp2": {},
    "tp2": {"tensor": 2},
    "pp2": {"pipeline": 2},
    "cp2": {"context": 2},
    "ep2": {"expert": 2},
    "pp2_vpp2": {"pipeline": 2, "virtual_pipeline": 2},
}
QWEN2_TWO = ("tp2", "pp2")  # ties its embeddings as a language model


def _trained(family: str, name: str, layout: dict, **arguments: object) -> Scenario:
    return Scenario(f"scored_{family}_{name}", "scores.trained", layout, {"family": family, **arguments})


ONE_RANK = [
    _trained("v3", "one", {}, save_as="reward_v3"),
    _trained("v3", "large_packs", {}, tokens_per_pack=256),
    _trained("qwen2", "one", {}),
    Scenario("rescored_one", "scores.loaded", {}, {"family": "v3", "source": "reward_v3"}),
    Scenario("rested_one", "scores.rested", {}, {"family": "v3", "source": "reward_v3"}),
    Scenario("rested_judge_one", "scores.rested_judge", {}, {"family": "v3"}),
    Scenario("beside_trl", "trl_rewards.beside_trl"),
    Scenario("scored_files_one", "scores.from_files"),
]
TWO_RANKS = [
    *(_trained("v3", name, layout) for name, layout in TWO.items()),
    *(_trained("qwen2", name, TWO[name]) for name in QWEN2_TWO),
    *(
        Scenario(f"rescored_{name}", "scores.loaded", TWO[name], {"family": "v3", "source": "reward_v3"})
        for name in ("tp2", "pp2")
    ),
]
