#!/usr/bin/env bash
# transformers 5.23.0 and megatron-core 0.19.2: one router has two load-balancing losses, a factor of top_k apart.
#
# Expected: both name Switch Transformer's loss, so that a coefficient (router_aux_loss_coef of a config.json,
# moe_aux_loss_coeff) means the same in both, and 1 is perfect balance.
# Seen: transformers' load_balancing_loss_func does not divide the choices of a token by top_k: perfect balance
# is top_k there and 1 in switch_load_balancing_loss_func, so that 0.001 with 8 experts a token acts as 0.008.
# megatron_r1 says whose formula a coefficient belongs to (models/qwen3_moe.py).
# It needs Python 3.12 or newer, as megatron-core does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check uv
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" torch==2.13.0 megatron-core==0.19.2 transformers==5.23.0
TORCHDYNAMO_DISABLE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from megatron.core.transformer.moe.moe_utils import switch_load_balancing_loss_func
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

TOKENS, EXPERTS = 64, 8
logits = torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(1))
for top_k in (1, 2, 4, 8):
    probabilities = logits.softmax(dim=-1)
    chosen = probabilities.topk(top_k).indices.flatten()
    megatron = switch_load_balancing_loss_func(
        probs=probabilities, tokens_per_expert=torch.bincount(chosen, minlength=EXPERTS), topk=top_k,
        total_num_tokens=TOKENS, num_experts=EXPERTS, moe_aux_loss_coeff=1.0,
    )
    transformers = load_balancing_loss_func((logits,), num_experts=EXPERTS, top_k=top_k)
    print(f"top {top_k}: transformers {transformers:.4f}, megatron {megatron:.4f}")
    assert torch.allclose(transformers, top_k * megatron), "changed"
PYTHON
