#!/usr/bin/env bash
# transformers 5.23.0: FP8 weights whose size is no multiple of the block get the scales of other rows.
#
# Expected: with weight_block_size [128, 128] rows 0-127 of a weight have the first scale and the rest the next
# one; the last block is a short one, as in DeepSeek-V3's own kernels.
# Seen: where the weights are dequantized (on any CPU, and with dequantize=True) the block's size is the number
# of rows divided by the number of scales: of 192 rows the scales change at row 96, so that rows 96-127 are
# multiplied by the wrong one. There is an error only where the division leaves a rest.
# megatron_r1 reads FP8 blocks itself, and gives transformers the plain weights (huggingface/reference.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check uv
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

BLOCK = 128
NAME = "model.layers.0.mlp.up_proj.weight"
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK], "dequantize": True}


def wrong_rows(rows: int, folder: Path) -> list[int]:
    folder.mkdir()
    shape = dict(num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=128)
    config = Qwen3Config(vocab_size=32, hidden_size=128, intermediate_size=rows, **shape)
    tensors, wanted = {}, {}
    for name, weight in Qwen3ForCausalLM(config).state_dict().items():
        tensors[name] = weight.clone()
        if "_proj" in name:
            scales = torch.arange(1.0, 1 + -(-len(weight) // BLOCK))[:, None].repeat(1, -(-weight.shape[1] // BLOCK))
            tensors[name] = (weight * 50).to(torch.float8_e4m3fn)
            tensors[name + "_scale_inv"] = scales
            wanted[name] = tensors[name].float() * scales[:, :1].repeat_interleave(BLOCK, dim=0)[: len(weight)]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    names = {"architectures": ["Qwen3ForCausalLM"], "quantization_config": FP8}
    (folder / "config.json").write_text(json.dumps(config.to_dict() | names))
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()[NAME]
    return (loaded - wanted[NAME]).abs().amax(dim=1).gt(1e-3).nonzero().flatten().tolist()


for rows, wrong in [(256, []), (192, list(range(96, 128)))]:
    found = wrong_rows(rows, Path(sys.argv[1]) / str(rows))
    print(f"{rows} rows: wrong are {found[:1]} to {found[-1:]}")
    assert found == wrong, "changed"
PYTHON
