#!/usr/bin/env bash
# megatron-core 0.19.2: vocab_parallel_cross_entropy overwrites the logits that it is given.
#
# Expected: a loss function leaves its argument alone, as torch's cross_entropy does.
# Seen: after the call logits in fp32 hold their own softmax: an entropy, an accuracy's margin or a second loss
# of "the logits" is computed of probabilities, without an error. Logits in bf16 are copied first and survive.
# megatron_r1 computes log probabilities and entropies itself (backend/model/logprobs.py).
# It needs Python 3.12 or newer, as megatron-core does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check uv
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" torch==2.13.0 megatron-core==0.19.2
TORCHDYNAMO_DISABLE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy

dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
for dtype, overwritten in [(torch.float32, True), (torch.bfloat16, False)]:
    logits = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], dtype=dtype)
    before, target = logits.clone(), torch.tensor([[1]])
    loss = vocab_parallel_cross_entropy(logits, target, tp_group=dist.group.WORLD)
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(before.float()[0], target[0]), atol=1e-2)
    print(f"{dtype}: {before.tolist()} became {logits.tolist()}")
    assert (not torch.equal(logits, before)) == overwritten, "changed"
    assert not overwritten or torch.allclose(logits, before.softmax(dim=-1))
PYTHON
