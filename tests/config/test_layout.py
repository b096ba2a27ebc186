from itertools import product

import pytest
import torch

from megatron_r1.config.layout import Layout, precision_problems, problems, split_layers, warnings
from megatron_r1.errors import ConfigError
from megatron_r1.models.shape import ModelShape

DENSE = ModelShape(
    num_layers=12, num_attention_heads=8, num_query_groups=2, vocab_size=64, ffn_hidden_size=96
)
MOE = ModelShape(
    num_layers=4,
    num_attention_heads=8,
    num_query_groups=8,
    vocab_size=64,
    ffn_hidden_size=128,
    num_experts=8,
    moe_ffn_hidden_size=32,
    num_dense_layers=1,
    num_mtp_layers=1,
)
DEEPSEEK_V3 = ModelShape(
    num_layers=61,
    num_attention_heads=128,
    num_query_groups=128,
    vocab_size=129280,
    ffn_hidden_size=18432,
    num_experts=256,
    moe_ffn_hidden_size=2048,
    num_dense_layers=3,
    num_mtp_layers=1,
)
V3_SPLIT = "Et*3|(tttt|)*14ttmL"


def test_replicas_are_what_the_model_leaves_over():
    layout = Layout(ranks=2048, tensor=2, pipeline=16, expert=64, pipeline_split=V3_SPLIT)
    assert layout.data == 64
    assert layout.expert_data == 2
    assert problems(layout, DEEPSEEK_V3) == []


def test_experts_may_spread_over_context_and_tensor_ranks():
    layout = Layout(ranks=8, tensor=2, context=2, expert=8)
    assert (layout.data, layout.expert_data) == (2, 1)
    assert problems(layout, MOE) == []


@pytest.mark.parametrize(
    ("layout", "shape", "problem"),
    [
        ({"ranks": 8, "tensor": 4, "pipeline": 4}, DENSE,
         "8 ranks cannot hold tensor=4 x pipeline=4 (16); lower one or start 16"),
        ({"ranks": 6, "tensor": 2, "context": 2}, DENSE,
         "6 ranks are no multiple of tensor=2 x context=2 (4); start 4 or 8"),
        ({"ranks": 6, "expert": 4}, MOE, "6 ranks are no multiple of expert=4 (4); start 4 or 8"),
        ({"ranks": 4, "expert": 4, "pipeline": 2}, MOE,
         "4 ranks cannot hold expert=4 x pipeline=2 (8); lower one or start 8"),
        ({"ranks": 3, "tensor": 3}, MOE,
         ["tensor=3 does not divide num_attention_heads=8; use 1 or 2",
          "tensor=3 does not divide ffn_hidden_size=128; use 1 or 2",
          "tensor=3 is neither a divisor nor a multiple of num_query_groups=8; use 1 or 2"]),
        ({"ranks": 2, "expert": 2}, DENSE,
         "expert=2 needs a model with experts, this one is dense; use expert=1"),
        ({"ranks": 2, "expert_tensor": 2}, DENSE,
         "expert_tensor=2 needs a model with experts, this one is dense; use expert_tensor=1"),
        ({"ranks": 6, "expert": 6}, MOE, "expert=6 does not divide num_experts=8; use 1 or 2 or 4"),
        ({"ranks": 3, "expert_tensor": 3}, MOE,
         "expert_tensor=3 does not divide moe_ffn_hidden_size=32; use 1 or 2"),
        ({"ranks": 8, "pipeline": 8}, DENSE,
         "pipeline=8 does not divide num_layers=12; use 1 or 2 or 3 or 4 or 6, "
         "or say an uneven split in pipeline_split"),
        ({"ranks": 2, "pipeline": 2, "virtual_pipeline": 4}, DENSE,
         "pipeline=2 x virtual_pipeline=4 (8) does not divide num_layers=12; use 1 or 2 or 3 or 4 or 6, "
         "or say an uneven split in pipeline_split"),
        ({"virtual_pipeline": 2}, DENSE, "virtual_pipeline=2 needs pipeline > 1; use virtual_pipeline=1"),
        ({"overlap": True, "distributed_optimizer": False}, DENSE,
         "overlap=true needs distributed_optimizer=true; set both or neither"),
        ({"overlap_experts": True}, MOE,
         "overlap_experts=true needs expert > 1; without it nothing travels"),
        ({"ranks": 4, "expert": 2, "pipeline": 2, "overlap_experts": True}, MOE,
         "overlap_experts=true with a pipeline needs virtual_pipeline > 1; set it to 2"),
        ({"ranks": 2, "pipeline": 2, "pipeline_split": "Et|tttL"}, MOE,
         "pipeline_split 'Et|tttL' holds 0 m, num_mtp_layers=1"),
        ({"ranks": 2, "pipeline": 2, "pipeline_split": "Et|t|ttmL"}, MOE,
         "pipeline_split 'Et|t|ttmL' makes 3 chunks, pipeline=2 x virtual_pipeline=1 needs 2"),
        ({"ranks": 2, "pipeline": 2, "pipeline_split": "Et|xttmL"}, MOE,
         "pipeline_split 'Et|xttmL' holds 'x'; only E, t, m, L, | and (...)*n are known"),
        ({"ranks": 2, "pipeline": 2, "pipeline_split": "tE|tttmL"}, MOE,
         "pipeline_split 'tE|tttmL' must run from E over t and m to L, with one E and one L"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_said_with_the_remedy(layout, shape, problem):
    expected = [problem] if isinstance(problem, str) else problem
    assert problems(Layout(**layout), shape) == [f"layout: {text}" for text in expected]


def test_what_the_arithmetic_must_be_for_experts_beside_another_micro_batch():
    layout = Layout(ranks=2, expert=2, overlap_experts=True)
    assert precision_problems(layout, precision="bf16", recompute="selective") == []
    assert precision_problems(layout, precision="fp32", recompute="full") == [
        "layout: overlap_experts=true needs precision bf16 or narrower, and it is fp32",
        "layout: overlap_experts=true can't recompute whole layers; use recompute selective or none",
    ]
    assert precision_problems(Layout(), precision="fp32", recompute="full") == []


def test_all_problems_come_at_once():
    layout = Layout(ranks=5, tensor=2, expert=3, pipeline=1, virtual_pipeline=2, overlap=True,
                    distributed_optimizer=False)  # fmt: skip
    assert len(problems(layout, MOE)) == 5


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"q_lora_rank": 9}, "q_lora_rank=9; use 1"),
        ({"kv_lora_rank": 17}, "kv_lora_rank + qk_pos_emb_head_dim=25; use 1"),
        ({"moe_ffn_hidden_size": 3}, "num_shared_experts x moe_ffn_hidden_size=3; use 1"),
        ({"hidden_size": 63}, "hidden_size=63; use 1"),
    ],
)
def test_the_parts_of_deepseek_v3_that_tensor_ranks_share_divide(changes, what):
    from megatron_r1.models.deepseek_v3 import DeepseekV3
    from tests.distributed.scenarios.models import V3

    found = problems(Layout(ranks=2, tensor=2), DeepseekV3(**{**V3, **changes}).shape())
    assert found == [f"layout: tensor=2 does not divide {what}"]
    assert problems(Layout(ranks=2, expert=2), DeepseekV3(**{**V3, **changes}).shape()) == []


def test_a_width_that_no_layer_has_need_not_divide():
    from megatron_r1.models.deepseek_v3 import DeepseekV3
    from tests.distributed.scenarios.models import V3

    shape = DeepseekV3(**{**V3, "num_dense_layers": 0, "ffn_hidden_size": 15}).shape()
    assert problems(Layout(ranks=2, tensor=2), shape) == []


def test_fewer_key_value_heads_than_tensor_ranks_are_shared():
    assert problems(Layout(ranks=4, tensor=4), DENSE) == []


def test_layers_are_split_evenly_over_the_chunks():
    layout = Layout(ranks=2, pipeline=2, virtual_pipeline=2)
    assert split_layers(layout, MOE) == ["Et", "t", "t", "tmL"]


def test_an_uneven_split_is_written_out():
    layout = Layout(ranks=2048, tensor=2, pipeline=16, expert=64, pipeline_split=V3_SPLIT)
    assert split_layers(layout, DEEPSEEK_V3) == ["Ettt", *["tttt"] * 14, "ttmL"]


def test_context_parallelism_is_exact_with_mtp_and_needs_no_warning():
    """test_parity.py holds it to one rank's curve."""
    assert warnings(Layout(ranks=2, context=2)) == []


def test_cut_experts_are_warned_of():
    assert "expert=4" in warnings(Layout(ranks=4, expert=2, expert_tensor=2))[0]


@pytest.fixture(scope="module")
def transformer_config():
    from megatron_r1.backend.model import build as model

    return model.TransformerConfig


def test_megatron_agrees_on_tensor_and_pipeline(transformer_config):
    compared = {True: 0, False: 0}
    for tensor, pipeline, virtual in product((1, 2, 3, 4, 6), (1, 2, 3, 4, 8), (1, 2, 3)):
        shape = ModelShape(num_layers=12, num_attention_heads=12, num_query_groups=4, vocab_size=0)
        layout = Layout(ranks=tensor * pipeline, tensor=tensor, pipeline=pipeline, virtual_pipeline=virtual)
        if virtual > 1 and pipeline == 1:
            continue  # refused by initialize_model_parallel, not by the configuration
        ours = not problems(layout, shape)
        theirs = _accepted(
            transformer_config, layout, num_layers=12, num_attention_heads=12, num_query_groups=4
        )
        # the configuration leaves an indivisible number of layers to the block's assertion, ours does not
        assert ours == (theirs and 12 % (pipeline * virtual) == 0), layout
        compared[ours] += 1
    assert min(compared.values()) > 10


@pytest.mark.parametrize(
    "split",
    ["Et|tttmL", "E|t*4,mL", "Et*2|(t|)*2mL", "Ett|ttL", "tE|tttmL", "Etm|tttL", "Et|ttm|tL", "Et|ttt,m,L"],
)
def test_megatron_agrees_on_splits(transformer_config, split):
    chunks = split.replace("(t|)*2", "t|t|").count("|") + 1
    layout = Layout(ranks=chunks, pipeline=chunks, pipeline_split=split)
    theirs = _accepted(
        transformer_config,
        layout,
        num_layers=4,
        num_attention_heads=8,
        mtp_num_layers=1,
        pipeline_model_parallel_layout=split,
    )
    assert (problems(layout, MOE) == []) == theirs


def _accepted(transformer_config, layout: Layout, **options) -> bool:
    try:
        transformer_config(
            hidden_size=96,
            tensor_model_parallel_size=layout.tensor,
            pipeline_model_parallel_size=layout.pipeline,
            virtual_pipeline_model_parallel_size=layout.virtual_pipeline
            if layout.virtual_pipeline > 1
            else None,
            pipeline_dtype=torch.float32,
            **options,
        )
    except (AssertionError, ValueError):
        return False
    return True


def test_transformer_engine_gets_no_epsilon_that_mla_s_latents_do_not_have(transformer_config):
    from megatron_r1.backend.model import build as model
    from megatron_r1.models.deepseek_v3 import DeepseekV3
    from tests.distributed.scenarios.models import V3

    other = DeepseekV3(**{**V3, "norm_epsilon": 1e-5})
    with pytest.raises(ConfigError, match=r"model.norm_epsilon: 1e-05, and Transformer Engine's layers"):
        model.transformer_config(other, Layout(), model.ModelOptions(transformer_engine=True))
    model.transformer_config(other, Layout(), model.ModelOptions())
    model.transformer_config(DeepseekV3(**V3), Layout(), model.ModelOptions(transformer_engine=True))
