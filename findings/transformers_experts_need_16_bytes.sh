#!/usr/bin/env bash
# transformers 5.23.0 on the CPU: a mixture of experts fails where a row of its weights is no multiple of 16 bytes.
#
# Expected: any width of an expert works, as it does for dense layers; small test models have odd ones.
# Seen: the default implementation is a grouped product, which raises "strides should be multiple of 16 bytes"
# in the first forward pass; experts_implementation="eager" computes the same model.
# megatron_r1 compares logits with the eager implementation where it has to (huggingface/reference.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

shape = dict(
    vocab_size=32, hidden_size=160, intermediate_size=200, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, q_lora_rank=24,
    kv_lora_rank=136, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=1,
)
ids = torch.arange(8)[None]
DeepseekV3ForCausalLM(DeepseekV3Config(**shape, moe_intermediate_size=128))(ids)
odd = DeepseekV3Config(**shape, moe_intermediate_size=130)
try:
    DeepseekV3ForCausalLM(odd)(ids)
except RuntimeError as error:
    print(f"130 wide: {error}")
    assert "16 bytes" in str(error)
else:
    raise SystemExit("changed: a width of 130 works")
odd._experts_implementation = "eager"
print("eager:", tuple(DeepseekV3ForCausalLM(odd)(ids).logits.shape))
PYTHON
