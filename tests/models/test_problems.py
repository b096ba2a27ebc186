"""What no layout can mend, named with its values and a remedy."""

import pytest

from tests.models.test_hf_config import FAMILIES, LLAMA, MOE, QWEN2, QWEN3, V3


def problems(family, **changes):
    return family.model_copy(update=changes).problems()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_whole_families_have_none(family):
    assert family.problems() == []


@pytest.mark.parametrize(
    ("family", "changes", "problem"),
    [
        (QWEN2, {"head_dim": None, "num_attention_heads": 6},
         "num_attention_heads: 6 does not divide hidden_size=16; use 1 or 2 or 4 or 8 or 16, "
         "or give head_dim"),
        (QWEN3, {"num_query_groups": 3},
         "num_query_groups: 3 does not divide num_attention_heads=4; use 1 or 2 or 4"),
        (LLAMA, {"num_query_groups": 8},
         "num_query_groups: 8 does not divide num_attention_heads=4; use 1 or 2 or 4"),
        (LLAMA, {"head_dim": 5}, "head_dim: 5 is odd, and RoPE turns pairs; use 6 or another even number"),
        (QWEN2, {"head_dim": None, "num_attention_heads": 16},
         "head_dim: 1 is odd, and RoPE turns pairs; use 2 or another even number"),
        (MOE, {"experts_per_token": 5}, "experts_per_token: 5, and there are num_experts=4; lower it"),
        (MOE, {"experts_per_token": 1},
         "normalize_expert_weights: true with experts_per_token=1 makes every weight 1, so the router learns "
         "nothing; set it to false"),
        (V3, {"qk_pos_emb_head_dim": 3},
         "qk_pos_emb_head_dim: 3 is odd, and RoPE turns pairs; use 4 or another even number"),
        (V3, {"experts_per_token": 9}, "experts_per_token: 9, and there are num_experts=8; lower it"),
        (V3, {"num_dense_layers": 5}, "num_dense_layers: 5 of num_layers=4; lower it"),
        (V3, {"num_expert_groups": 3},
         "num_expert_groups: 3 does not divide num_experts=8; use 1 or 2 or 4 or 8"),
        (V3, {"groups_per_token": 5}, "groups_per_token: 5 of num_expert_groups=4; lower it"),
        (V3, {"experts_per_token": 5},
         "experts_per_token: 5 of groups_per_token=2 groups of 2 experts; it is at least 2 and at most 4"),
        (V3, {"experts_per_token": 1},
         "experts_per_token: 1 of groups_per_token=2 groups of 2 experts; it is at least 2 and at most 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_said_with_the_remedy(family, changes, problem):
    assert problems(family, **changes) == [problem]


def test_all_come_at_once():
    assert len(problems(MOE, num_query_groups=3, experts_per_token=9)) == 2
    assert len(problems(V3, qk_pos_emb_head_dim=3, num_dense_layers=9, experts_per_token=9)) == 3
