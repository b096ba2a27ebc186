#!/usr/bin/env bash
# megatron-core 0.19.2: a label of -100 costs a loss, and has a gradient.
#
# Expected: -100 is left out, as in torch's cross_entropy and in the labels of every Hugging Face collator.
# Seen: vocab_parallel_cross_entropy takes a label outside of the vocabulary for one of another rank: its loss is
# the log of the sum of exp(logits - max), finite and plausible, and its gradient pushes all logits down by
# their probabilities. Only a loss mask of one's own keeps such tokens out.
# megatron_r1 has no labels of -100: a token counts by its loss mask.
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
from torch.nn.functional import cross_entropy

dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
values, labels = [[[1.0, 2.0, 3.0, 4.0], [4.0, 1.0, 1.0, 1.0]]], torch.tensor([[-100, 0]])
torchs = torch.tensor(values, requires_grad=True)
cross_entropy(torchs[0], labels[0], reduction="sum").backward()
megatrons = torch.tensor(values, requires_grad=True)
losses = vocab_parallel_cross_entropy(megatrons * 1, labels, tp_group=dist.group.WORLD)
losses.sum().backward()
ignored = torch.tensor(values[0][0])
print(f"of -100: loss {losses[0, 0].item():.4f}, gradient {megatrons.grad[0, 0].tolist()}")
print(f"in torch: gradient {torchs.grad[0, 0].tolist()}")
assert torch.equal(torchs.grad[0, 0], torch.zeros(4))
assert torch.allclose(torchs.grad[0, 1], megatrons.grad[0, 1])
assert torch.allclose(losses[0, 0], (ignored - ignored.max()).logsumexp(0)), "changed: the loss"
assert torch.allclose(megatrons.grad[0, 0], ignored.softmax(0)), "changed: the gradient"
PYTHON
