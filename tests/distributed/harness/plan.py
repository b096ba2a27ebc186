"""What runs on how many ranks. Results are asked for by a scenario's name.

Order matters where one scenario reads what an earlier one wrote to the shared folder.
"""

from tests.distributed.harness import fp8_plan, offload_plan, refit_plan, replay_plan, score_plan
from tests.distributed.harness.ranks import Scenario

# Layouts by name, as they appear in the names of scenarios and tests.
TWO = {
    "dp2": {},
    "dp2_overlap": {"overlap": True},
    "dp2_plain_optimizer": {"distributed_optimizer": False},
    "ep2": {"expert": 2},
    "tp2": {"tensor": 2},
    "tp2_etp2": {"tensor": 2, "expert_tensor": 2},
    "tp2_ep2": {"tensor": 2, "expert": 2},
    "pp2": {"pipeline": 2},
    "pp2_vpp2": {"pipeline": 2, "virtual_pipeline": 2},
    "cp2": {"context": 2},
}
FOUR = {
    "tp2_pp2": {"tensor": 2, "pipeline": 2},
    "ep2_pp2": {"expert": 2, "pipeline": 2},
    "tp2_etp2_ep2": {"tensor": 2, "expert_tensor": 2, "expert": 2},
    "tp2_ep2_pp2": {"tensor": 2, "expert": 2, "pipeline": 2},
    "ep2_dp4": {"expert": 2},
    "cp2_tp2": {"context": 2, "tensor": 2},
    "ep2_pp2_vpp2": {"expert": 2, "pipeline": 2, "virtual_pipeline": 2},
}
# of every family; v3 is in all of TWO and FOUR
TRAINED_TWO = {
    "v3_plain": ("tp2", "cp2"),
    "qwen2": ("dp2", "tp2", "pp2", "cp2"),
    "qwen3": ("dp2", "tp2", "pp2_vpp2", "cp2"),
    "llama": ("dp2", "tp2", "pp2_vpp2", "cp2"),
    "qwen3_moe_trained": ("dp2", "ep2", "tp2", "tp2_etp2", "tp2_ep2", "pp2", "pp2_vpp2", "cp2"),
    "glm4_moe": ("tp2", "ep2"),
}
TRAINED_FOUR = {"qwen3_moe_trained": ("tp2_etp2_ep2", "tp2_ep2_pp2", "cp2_tp2", "ep2_pp2_vpp2")}
INITIAL_TWO = {"v3": ("tp2", "ep2", "tp2_etp2", "pp2_vpp2"), "qwen2": ("tp2", "pp2")}
BF16_TWO = (
    *(("v3", name) for name in ("dp2", "tp2", "pp2", "ep2")),
    ("qwen2", "tp2"), ("qwen3", "tp2"), ("llama", "tp2"), ("qwen3_moe_trained", "ep2"),
)  # fmt: skip
BF16 = tuple(dict.fromkeys(family for family, _ in BF16_TWO))
BESIDE_TWO = {"expert": 2, "overlap_experts": True}
# source -> layouts that go on from its checkpoint after three steps
RESUMED_TWO = {
    "one": ("dp2", "dp2_plain_optimizer", "pp2", "tp2", "ep2"),
    "ep2": ("ep2", "tp2", "pp2_vpp2"),
    "dp2_overlap": ("dp2",),
    "dp2_plain_optimizer": ("tp2",),
    "pp2": ("pp2",),
}
# of every family, from one rank
RESUMED_FAMILIES = {"qwen2": "tp2", "qwen3": "tp2", "llama": "tp2", "qwen3_moe_trained": "ep2"}
FAMILIES = ("v3", "v3_plain", "qwen2", "qwen3", "llama", "qwen3_moe")
TEMPERATURES = (1.0, 0.7)
PACKED_TWO = (
    ("v3", "tp2"), ("v3", "cp2"), ("v3", "pp2"), ("v3", "ep2"), ("qwen2", "tp2"), ("qwen2", "cp2"),
    ("qwen3", "tp2"), ("llama", "tp2"), ("qwen3_moe", "ep2"), ("qwen3_moe", "tp2_ep2"),
)  # fmt: skip
SAMPLED_TWO = (
    *(("v3", name) for name in ("tp2", "pp2", "pp2_vpp2", "ep2", "tp2_ep2", "cp2", "dp2")),
    *(("qwen2", name) for name in ("tp2", "pp2", "pp2_vpp2")),
    ("qwen3", "tp2"), ("llama", "tp2"), ("qwen3_moe", "ep2"), ("qwen3_moe", "tp2_ep2"),
)  # fmt: skip
CARRIED_TWO = (("v3", "ep2"), ("v3", "pp2_vpp2"), ("v3", "dp2"), ("qwen2", "tp2"))  # in two calls too
DECODED_TWO = (
    *(("v3", name) for name in ("ep2", "tp2", "pp2", "pp2_vpp2")),
    ("v3_plain", "tp2"), ("qwen2", "tp2"), ("qwen2", "pp2"),
    ("qwen3", "tp2"), ("llama", "tp2"), ("qwen3_moe", "ep2"), ("qwen3_moe", "tp2_ep2"),
    ("glm4_moe", "tp2"),
)  # fmt: skip
FORGOTTEN_TWO = ("dp2", "dp2_overlap", "tp2")
UNEVEN = ("v3", "qwen3_moe_trained")
UNEVEN_TWO = ("dp2", "ep2", "tp2", "cp2", "pp2_vpp2")
IDLE_TWO = ("dp2", "ep2")
# the engine takes no MLA
DYNAMIC = ("qwen2", "qwen3_moe")
DYNAMIC_TWO = (
    *(("qwen2", name) for name in ("dp2", "tp2", "pp2")),
    *(("qwen3_moe", name) for name in ("ep2", "tp2_ep2")),
)
# layout -> samplings
SPECULATED_TWO = {
    "ep2": ("greedy", "nucleus"),
    "tp2": ("nucleus",),
    "pp2": ("nucleus",),
    "pp2_vpp2": ("sampled",),
}
# layout -> the ways that its experts are reached by while sampling
EXCHANGED_TWO = {"ep2": ("modules", "exchanged", "dispatched"), "tp2_ep2": ("modules", "exchanged")}
EXCHANGED_FOUR = {
    "ep4": ({"expert": 4}, ("modules", "exchanged", "dispatched", "prompts dispatched")),
    "tp2_ep4": ({"tensor": 2, "expert": 4}, ("modules", "exchanged")),
    "tp2_etp2_ep2": ({"tensor": 2, "expert_tensor": 2, "expert": 2}, ("exchanged",)),
}
SAVED_TWO = tuple(source for source in RESUMED_TWO if source != "one")


def _train(name: str, layout: dict, **arguments: object) -> Scenario:
    return Scenario(name, "train.from_start", layout, arguments)


def _uneven(name: str, layout: dict, **arguments: object) -> Scenario:
    return Scenario(name, "train.uneven", layout, arguments)


def _resumed(source: str, name: str, layout: dict) -> Scenario:
    arguments = {"family": "v3", "source": f"after3_{source}"}
    return Scenario(f"resumed_{source}_{name}", "train.resumed", layout, arguments)


def _resumed_family(family: str, name: str, layout: dict) -> Scenario:
    arguments = {"family": family, "source": f"after3_{family}"}
    return Scenario(f"resumed_{family}_{name}", "train.resumed", layout, arguments)


def _numbers(name: str, layout: dict) -> list[Scenario]:
    return [
        Scenario(f"numbers_{t}_{name}", "logprobs.by_hand", layout, {"temperature": t}) for t in TEMPERATURES
    ]


def _heads(name: str, layout: dict) -> list[Scenario]:
    return [
        Scenario(f"{what}_{family}_{name}", f"logprobs.{function}", layout, {"family": family})
        for what, function in (("chunks", "in_chunks"), ("counted", "counted"))
        for family in ("v3", "qwen2")
    ]


# layout -> the most logits at once
MASKED_TWO = {"tp2": 500, "cp2": None, "pp2": None, "dp2": 500}


def _masked(name: str, layout: dict, **arguments: object) -> Scenario:
    return Scenario(f"masked_{name}", "train.masked", layout, arguments)


ONE_RANK = [
    *(Scenario(f"start_{f}", "train.write_start", {}, {"family": f}) for f in ("v3", *TRAINED_TWO)),
    _train("v3_one", {}, family="v3", save_as="after3_one"),
    *(
        _train(f"{f}_one", {}, family=f, save_as=f"after3_{f}" if f in RESUMED_FAMILIES else "")
        for f in TRAINED_TWO
    ),
    _train("bf16_v3_one", {}, family="v3", precision="bf16", save_as="after3_bf16"),
    *(
        _train(f"bf16_{family}_one", {}, family=family, precision="bf16", num_steps=2)
        for family in BF16
        if family != "v3"
    ),
    Scenario(
        "resumed_bf16", "train.resumed", {}, {"family": "v3", "source": "after3_bf16", "precision": "bf16"}
    ),
    *(_resumed_family(family, "one", {}) for family in RESUMED_FAMILIES),
    _train("recompute_full", {}, family="v3", recompute="full", num_steps=2),
    _train("recompute_selective", {}, family="v3", recompute="selective", num_steps=2),
    _train("rollout_first", {}, family="v3", rollout_first=True, num_steps=2),
    _train("optimizer_first", {}, family="v3", precision="bf16", optimizer_first=True, num_steps=2),
    _resumed("one", "one", {}),
    *(
        Scenario(f"uneven_{f}_one_{n}", "train.uneven", {}, {"family": f, "tokens_per_pack": n})
        for f in UNEVEN
        for n in (64, 256)
    ),
    *(Scenario(f"forgotten_{f}_one", "train.forgotten", {}, {"family": f}) for f in ("v3", "qwen2")),
    Scenario("reference_of_start", "train.reference_of_start", {}, {"family": "v3"}),
    *(Scenario(f"initial_{f}", "weights.initial_digests", {}, {"family": f}) for f in ("v3", "qwen2")),
    *_numbers("one", {}),
    *_heads("one", {}),
    _masked("every_token", {}, prompt_logits=True),
    _masked("one", {}),
    *(Scenario(f"packed_{f}_one", "logprobs.packed", {}, {"family": f}) for f in FAMILIES),
    *(Scenario(f"sampled_{f}_one", "rollouts.sample", {}, {"family": f}) for f in FAMILIES),
    *(
        Scenario(f"dynamic_{f}_one", "rollouts.sample", {}, {"family": f, "engine": "dynamic"})
        for f in DYNAMIC
    ),
    Scenario("mtp_by_hand", "logprobs.mtp"),
    Scenario("speculated_one", "speculation.compare"),
    Scenario("speculated_by_hand", "speculation.by_hand"),
    Scenario("speculated_counts", "speculation.counts"),
    Scenario("speculated_refused", "speculation.refused"),
    Scenario("exception_inside_one", "rollouts.exception_inside", {}, {"family": "v3"}),
    *fp8_plan.ONE_RANK,
    *offload_plan.ONE_RANK,
    *replay_plan.ONE_RANK,
    *score_plan.ONE_RANK,
]

TWO_RANKS = [
    *(
        _train(f"v3_{name}", layout, family="v3", save_as=f"after3_{name}" if name in SAVED_TWO else "")
        for name, layout in TWO.items()
    ),
    *(
        _train(f"{family}_{name}", TWO[name], family=family)
        for family, names in TRAINED_TWO.items()
        for name in names
    ),
    *(
        _train(f"bf16_{family}_{name}", TWO[name], family=family, precision="bf16", num_steps=2)
        for family, name in BF16_TWO
    ),
    _train("beside_ep2", TWO["ep2"], family="v3", beside=True, rollout_first=True),
    _train("bf16_beside_ep2", BESIDE_TWO, family="v3", precision="bf16", num_steps=2),
    _train("recompute_full_tp2", TWO["tp2"], family="v3", recompute="full", num_steps=2),
    _train("rollout_first_tp2", TWO["tp2"], family="v3", rollout_first=True, num_steps=2),
    *(Scenario(f"forgotten_{n}", "train.forgotten", TWO[n], {"family": "v3"}) for n in FORGOTTEN_TWO),
    *(_uneven(f"uneven_{f}_{n}", TWO[n], family=f) for f in UNEVEN for n in UNEVEN_TWO),
    *(_uneven(f"idle_{f}_{n}", TWO[n], family=f, idle=True) for f in UNEVEN for n in IDLE_TWO),
    *(_resumed(source, name, TWO[name]) for source, names in RESUMED_TWO.items() for name in names),
    *(_resumed_family(family, name, TWO[name]) for family, name in RESUMED_FAMILIES.items()),
    *(
        Scenario(f"initial_{family}_{name}", "weights.initial_digests", TWO[name], {"family": family})
        for family, names in INITIAL_TWO.items()
        for name in names
    ),
    *_numbers("tp2", TWO["tp2"]),
    *_heads("tp2", TWO["tp2"]),
    *(_masked(n, TWO[n], max_logits=max_logits) for n, max_logits in MASKED_TWO.items()),
    *(
        Scenario(f"packed_{family}_{name}", "logprobs.packed", TWO[name], {"family": family})
        for family, name in PACKED_TWO
    ),
    *(
        Scenario(
            f"sampled_{family}_{name}",
            "rollouts.sample",
            TWO[name],
            {"family": family, "carried": (family, name) in CARRIED_TWO},
        )
        for family, name in SAMPLED_TWO
    ),
    *(
        Scenario(f"dynamic_{f}_{name}", "rollouts.sample", TWO[name], {"family": f, "engine": "dynamic"})
        for f, name in DYNAMIC_TWO
    ),
    *(
        Scenario(f"speculated_{name}", "speculation.compare", TWO[name], {"samplings": chosen})
        for name, chosen in SPECULATED_TWO.items()
    ),
    *(
        Scenario(f"exchange_{name}", "exchange.ways", TWO[name], {"names": names})
        for name, names in EXCHANGED_TWO.items()
    ),
    *(Scenario(f"decoded_{f}_{name}", "decode.compare", TWO[name], {"family": f}) for f, name in DECODED_TWO),
    Scenario("exception_inside_tp2", "rollouts.exception_inside", TWO["tp2"], {"family": "v3"}),
    *(
        Scenario(f"rank_{rank}_cannot_write", "damage.rank_that_cannot_write", TWO["pp2"], {"rank": rank})
        for rank in (0, 1)
    ),
    Scenario("full_disk", "damage.full_disk", TWO["pp2"]),
    Scenario("damaged", "damage.damaged", TWO["ep2"]),
    Scenario("wrong_model", "damage.wrong_model", TWO["pp2"]),
    *refit_plan.TWO_RANKS,
    *fp8_plan.TWO_RANKS,
    *offload_plan.TWO_RANKS,
    *replay_plan.TWO_RANKS,
    *score_plan.TWO_RANKS,
]

FOUR_RANKS = [
    *(_train(f"v3_{name}", layout, family="v3") for name, layout in FOUR.items()),
    *(
        _train(f"{family}_{name}", FOUR[name], family=family)
        for family, names in TRAINED_FOUR.items()
        for name in names
    ),
    _train("beside_ep2_pp2_vpp2", FOUR["ep2_pp2_vpp2"], family="v3", beside=True),
    *(
        Scenario(f"exchange_{name}", "exchange.ways", layout, {"names": names})
        for name, (layout, names) in EXCHANGED_FOUR.items()
    ),
    *refit_plan.FOUR_RANKS,
    *replay_plan.FOUR_RANKS,
]
