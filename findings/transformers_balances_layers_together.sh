#!/usr/bin/env bash
# transformers 5.23.0: the load-balancing loss of a mixture of experts pools the experts of all layers.
#
# Expected: expert 0 of layer 1 and expert 0 of layer 2 are two modules, and each layer has to be balanced.
# Seen: load_balancing_loss_func sums choices and probabilities by the expert's number over the layers first: a
# layer that sends every token to expert 0 and one that sends every token to expert 1 together have the loss of
# perfect balance, 1, where each alone has 2. Two collapsed layers have no gradient to get out of it.
# megatron_r1 balances each layer (Megatron-Core's losses).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check uv
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

first = torch.tensor([[10.0, 0.0]]).repeat(16, 1)  # every token to expert 0
second = first.flip(1)  # every token to expert 1
alone = [load_balancing_loss_func((layer,), num_experts=2, top_k=1).item() for layer in (first, second)]
both = load_balancing_loss_func((first, second), num_experts=2, top_k=1).item()
print(f"each alone {alone}, both together {both}")
assert min(alone) > 1.99
assert abs(both - 1.0) < 1e-3, "changed: the layers are balanced one by one"
PYTHON
