"""Scenarios of tensors that go to host memory and come back."""

from tests.distributed.harness.ranks import Scenario

CASES = {
    "v3_bf16": {"family": "v3", "precision": "bf16"},
    "qwen2_fp32": {"family": "qwen2", "precision": "fp32"},
}


def _scenarios(name: str, layout: dict, cases: tuple[str, ...]) -> list[Scenario]:
    return [
        Scenario(
            f"{'moved' if move else 'stayed'}_{case}_{name}",
            "train.offloaded",
            layout,
            {**CASES[case], "move": move},
        )
        for case in cases
        for move in (False, True)
    ]


ONE_RANK = _scenarios("one", {}, ("v3_bf16", "qwen2_fp32"))
TWO_RANKS = _scenarios("dp2_overlap", {"overlap": True}, ("v3_bf16",))
