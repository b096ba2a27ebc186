#!/usr/bin/env bash
# transformers 5.23.0: sequences that are packed by position_ids see each other, unless use_cache=False is given.
#
# Expected: position_ids that begin again at 0 keep packed sequences apart, whatever else is asked for: that is how
# DataCollatorWithFlattening packs, and the mask is made for it also with sdpa and eager attention.
# Seen: packing is looked for only where there is no cache, and use_cache is true as the configuration is, in
# train() too, with or without labels: the second sequence attends the first, without a word. With
# use_cache=False the logits are those of the sequence alone. Trainers set it; a loop of one's own does not.
# megatron_r1 packs by cu_seqlens in an attention of its own (backend/model/attention.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check uv
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

first, second = torch.arange(1, 6)[None], torch.arange(7, 11)[None]
pack = torch.cat([first, second], dim=1)
positions = torch.cat([torch.arange(5), torch.arange(4)])[None]
shape = dict(vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2, head_dim=16)
heads = dict(num_attention_heads=2, num_key_value_heads=2)
for config, model_class in [(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)]:
    torch.manual_seed(1)
    model = model_class(config(**shape, **heads)).train()
    alone = model(second).logits
    for options, apart in [({}, False), ({"labels": pack}, False), ({"use_cache": False}, True)]:
        packed = model(pack, position_ids=positions, **options).logits[:, 5:]
        difference = (packed - alone).abs().max().item()
        print(f"{model_class.__name__} {', '.join(options) or 'as it is'}: logits differ by {difference:.1e}")
        assert (difference < 1e-5) == apart, "changed"
PYTHON
