"""Where a weight of the local spec is found in the Transformer Engine spec."""

import re


def engine_name(name: str, *, latent: bool, has_experts: bool) -> str:
    """latent: the layer's attention is MLA. has_experts: the layer's network is a mixture of experts.

    Transformer Engine puts a norm into the linear that follows it, and numbers the experts' weights.
    """
    if not latent:
        name = name.replace(".input_layernorm.weight", ".self_attention.linear_qkv.layer_norm_weight")
    if not has_experts:
        name = name.replace(".pre_mlp_layernorm.weight", ".mlp.linear_fc1.layer_norm_weight")
    if latent:
        name = re.sub(r"\.(q|kv)_layernorm\.weight$", r".linear_\1_up_proj.layer_norm_weight", name)
    return re.sub(r"\.local_experts\.(\d+)\.(linear_fc[12])\.weight$", r".\2.weight\1", name)
