from tests.gpu.engine_names import engine_name


def test_norms_are_found_in_the_linears_that_follow_them():
    prefix = "decoder.layers.0"
    names = {
        f"{prefix}.input_layernorm.weight": f"{prefix}.self_attention.linear_qkv.layer_norm_weight",
        "decoder.layers.0.pre_mlp_layernorm.weight": "decoder.layers.0.mlp.linear_fc1.layer_norm_weight",
        "decoder.final_layernorm.weight": "decoder.final_layernorm.weight",
    }
    assert {name: engine_name(name, latent=False, has_experts=False) for name in names} == names


def test_mla_keeps_the_layers_norms_and_moves_those_of_the_latents():
    prefix = "decoder.layers.1.self_attention."
    names = {
        "decoder.layers.1.input_layernorm.weight": "decoder.layers.1.input_layernorm.weight",
        "decoder.layers.1.pre_mlp_layernorm.weight": "decoder.layers.1.pre_mlp_layernorm.weight",
        f"{prefix}q_layernorm.weight": f"{prefix}linear_q_up_proj.layer_norm_weight",
        f"{prefix}kv_layernorm.weight": f"{prefix}linear_kv_up_proj.layer_norm_weight",
        "decoder.layers.1.mlp.experts.local_experts.12.linear_fc1.weight": (
            "decoder.layers.1.mlp.experts.linear_fc1.weight12"
        ),
    }
    assert {name: engine_name(name, latent=True, has_experts=True) for name in names} == names
