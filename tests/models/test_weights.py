"""The tables: joins by hand, names that are there once, and both directions."""

from collections import Counter

import pytest
import torch

from megatron_r1 import registry
from megatron_r1.huggingface.weight_mapping import to_hugging_face, to_megatron
from megatron_r1.models.flops import token_cost
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.models.weights import GATE_UP, SAME, HalvesToPairs, Qkv, Row, Segment, Weight, num_parameters
from tests.models.test_hf_config import FAMILIES, LLAMA, MOE, QWEN2, V3


class Tensors:
    """assemble.Reader over tensors in memory."""

    def __init__(self, values):
        self.values = values

    def read(self, name, dtype, *, rows=None, columns=None):
        value = self.values[name][rows.start : rows.stop]
        return (value if columns is None else value[:, columns.start : columns.stop]).to(dtype)


def weight(join, shape, parts):
    return Weight(
        "m", tuple("abc"[:parts]), Row(megatron="m", hf=tuple("abc"[:parts]), shape=shape, join=join)
    )


def test_gate_lies_above_up():
    assert GATE_UP.segments(6) == [Segment(0, 0, 0, 3), Segment(1, 0, 3, 3)]


def test_a_group_has_its_queries_then_its_key_then_its_value():
    assert Qkv(groups=2, queries=2, head_dim=1).segments(8) == [
        Segment(0, 0, 0, 2), Segment(1, 0, 2, 1), Segment(2, 0, 3, 1),
        Segment(0, 2, 4, 2), Segment(1, 1, 6, 1), Segment(2, 1, 7, 1),
    ]  # fmt: skip


def test_halves_become_pairs_behind_the_rows_that_are_not_rotated():
    join = weight(HalvesToPairs(heads=2, plain=1, rotated=4), (10,), 1)
    rows = torch.tensor([0, 1, 2, 3, 4, 10, 11, 12, 13, 14])
    whole = to_megatron(Tensors({"a": rows}), join, torch.int64, rows=range(10))
    assert whole.tolist() == [0, 1, 3, 2, 4, 10, 11, 13, 12, 14]
    assert to_hugging_face(join, 0, lambda r: whole[r.start : r.stop]).tolist() == rows.tolist()


JOINS = [
    (SAME, (12, 5), 1),
    (GATE_UP, (12, 5), 2),
    (Qkv(groups=3, queries=2, head_dim=2), (24, 5), 3),
    (Qkv(groups=1, queries=2, head_dim=3), (12,), 3),
    (HalvesToPairs(heads=3, plain=2, rotated=4), (18, 5), 1),
]


@pytest.mark.parametrize(("join", "shape", "parts"), JOINS)
def test_every_part_of_a_weight_is_the_part_of_the_whole(join, shape, parts):
    one = weight(join, shape, parts)
    values = {n: torch.randn(one.hf_shape(i)) for i, n in enumerate(one.hf)}
    whole = to_megatron(Tensors(values), one, torch.float32, rows=range(shape[0]))
    assert whole.shape == shape
    assert sorted(whole.flatten().tolist()) == sorted(
        x for v in values.values() for x in v.flatten().tolist()
    )
    for start, stop in ((0, 1), (1, 7), (5, shape[0]), (0, shape[0])):
        part = to_megatron(Tensors(values), one, torch.float32, rows=range(start, stop))
        assert torch.equal(part, whole[start:stop])
    if len(shape) > 1:
        part = to_megatron(Tensors(values), one, torch.float32, rows=range(2, 9), columns=range(1, 4))
        assert torch.equal(part, whole[2:9, 1:4])
    for i, name in enumerate(one.hf):
        assert torch.equal(to_hugging_face(one, i, lambda r: whole[r.start : r.stop]), values[name])


def test_rows_behind_the_weight_are_zero():
    one = weight(SAME, (3, 2), 1)
    value = torch.ones(3, 2)
    found = to_megatron(Tensors({"a": value}), one, torch.float32, rows=range(2, 5))
    assert found.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert to_megatron(Tensors({"a": value}), one, torch.float32, rows=range(3, 4)).tolist() == [[0, 0]]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_no_name_is_there_twice(family):
    weights = family.weights()
    for names in ([w.megatron for w in weights], [name for w in weights for name in w.hf]):
        assert max(Counter(names).values()) == 1
        assert not any("{" in name for name in names)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_parameters_add_up_row_by_row_and_weight_by_weight(family):
    sizes = [torch.Size(weight.shape).numel() for weight in family.weights()]
    assert num_parameters(family.weight_rows()) == sum(sizes)
    for one in family.weights():
        parts = sum(torch.Size(one.hf_shape(i)).numel() for i in range(len(one.hf)))
        assert parts == torch.Size(one.shape).numel()


def test_a_tied_model_has_no_head_of_its_own():
    names = [name for one in QWEN2.weights() for name in one.hf]
    assert "lm_head.weight" not in names
    assert [(copy.name, copy.exported) for copy in QWEN2.copies()] == [("lm_head.weight", False)]


def test_the_matrices_of_a_dense_model_are_those_that_flops_count():
    # the embedding is looked up; with a tied head its rows are counted as the head
    matrices = sum(
        torch.Size(one.shape).numel()
        for one in LLAMA.weights()
        if len(one.shape) == 2 and "word_embeddings" not in one.megatron
    )
    assert matrices == token_cost(LLAMA).weights


def test_layers_know_whether_they_have_experts():
    names = {one.megatron for one in V3.weights()}
    assert "decoder.layers.0.mlp.linear_fc1.weight" in names
    assert "decoder.layers.1.mlp.experts.7.linear_fc2.weight" in names
    assert "mtp.layers.0.transformer_layer.mlp.router.expert_bias" in names
    assert not any("router" in name for name in names if ".layers.0.mlp" in name and "decoder" in name)


def test_the_names_of_transformer_engine_are_in_the_table():
    engine = {one.megatron: one.engine_name() for one in V3.weights()}
    attention = "decoder.layers.1.self_attention."
    assert engine[f"{attention}q_layernorm.weight"] == f"{attention}linear_q_up_proj.layer_norm_weight"
    assert engine[f"{attention}kv_layernorm.weight"] == f"{attention}linear_kv_up_proj.layer_norm_weight"
    dense = "decoder.layers.0.pre_mlp_layernorm.weight"
    assert engine[dense] == "decoder.layers.0.mlp.linear_fc1.layer_norm_weight"
    assert engine["decoder.layers.1.pre_mlp_layernorm.weight"] is None
    norm = "decoder.layers.0.mlp.linear_fc1.layer_norm_weight"
    (experts,) = [one for one in MOE.weights() if one.megatron == norm]
    assert experts.engine_name() == "decoder.layers.0.pre_mlp_layernorm.weight"


def test_every_family_that_can_be_converted_names_its_architecture_once():
    configs = [
        entry.config for entry in registry.families().values() if issubclass(entry.config, FamilyConfig)
    ]
    named = Counter(config.hf_architecture for config in configs)
    assert set(named.values()) == {1}
    assert len(named) == 6  # five of the package, and examples/glm4_moe.py
