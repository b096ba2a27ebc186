"""What of Hugging Face's files runs on how many ranks: as plan.py, with transformers' models beside it."""

from tests.distributed.harness.hf_models import MODELS, WITH_EXPERTS
from tests.distributed.harness.ranks import Scenario

TWO = {"tp2": {"tensor": 2}, "pp2": {"pipeline": 2}, "ep2": {"expert": 2}}
FOUR = {"tp2_pp2": {"tensor": 2, "pipeline": 2}}
ALL = list(MODELS)
SOME = [
    "v3",
    "v3_mtp",
    "qwen2",
    "qwen3_moe_plain",
    "llama_32",
]  # one a family, odd vocabularies and tied ones
SHAPES = ["v3_mtp", "v3_lite", "qwen2_tied", "qwen3_moe", "llama"]  # even vocabularies
TRAINED = {
    "v3_tp2": ("v3", "tp2"),
    "qwen2_tied_pp2": ("qwen2_tied", "pp2"),
    "qwen3_moe_ep2": ("qwen3_moe", "ep2"),
}


def models_for(layout: str) -> list[str]:
    return list(WITH_EXPERTS) if layout.startswith("ep") else ALL


ONE_RANK = [
    Scenario("load_one", "hf.load", {}, {"names": ALL}),
    Scenario("convert", "hf.convert", {}, {"names": ALL}),
    Scenario("checkpoints_one", "hf.checkpoints", {}, {"names": SOME}),
    Scenario("mtp_one", "hf.mtp_loss"),
    Scenario("traps", "hf_traps.run"),
    Scenario("verified_files", "hf_verified_files.run"),
    Scenario("full_size", "hf_full_size.covered"),
    *(Scenario(n, f"hf_files.{n}") for n in ("interrupted", "refused", "not_finite", "blocks", "formats")),
    Scenario("blocks_in_transformers", "hf_files.blocks_in_transformers"),
]
CUT = {"tp2": TWO["tp2"], "tp2_etp2": {"tensor": 2, "expert_tensor": 2}}
TWO_RANKS = [
    *(Scenario(f"shards_{n}", "hf.shards", layout, {"names": SHAPES}) for n, layout in CUT.items()),
    *(Scenario(f"verified_{n}", "hf.verified", layout, {"name": "v3_mtp"}) for n, layout in TWO.items()),
    *(Scenario(f"load_{n}", "hf.load", layout, {"names": models_for(n)}) for n, layout in TWO.items()),
    *(
        Scenario(
            f"checkpoints_{n}", "hf.checkpoints", layout, {"names": [m for m in SOME if m in models_for(n)]}
        )
        for n, layout in TWO.items()
    ),
    *(Scenario(f"mtp_{n}", "hf.mtp_loss", layout) for n, layout in TWO.items()),
    *(
        Scenario(f"trained_{label}", "hf.trained", TWO[layout], {"name": name, "label": label})
        for label, (name, layout) in TRAINED.items()
    ),
]
FOUR_RANKS = [
    *(Scenario(f"load_{n}", "hf.load", layout, {"names": ALL}) for n, layout in FOUR.items()),
]
