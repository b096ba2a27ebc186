#!/usr/bin/env bash
# megatron-core 0.19.2: a micro-batch of padding alone makes the router's gradient NaN.
#
# Expected: no token, no load to balance: the auxiliary loss of tokens that padding_mask leaves out is 0, as the
# z-loss is, whose mean divides by at least one token.
# Seen: aux_loss and seq_aux_loss divide 0 by 0 tokens: the loss is NaN and so is every gradient of the router,
# while the output is in order. A rank that fills its last micro-batch with padding loses the step.
# megatron_r1 computes the loss by sequence in a router of its own (backend/model/router.py).
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
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe import router
from megatron.core.transformer.transformer_config import TransformerConfig

torch.cuda.current_device = lambda: "cpu"  # the router asks for it also where there is no GPU
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
parallel_state.initialize_model_parallel()


def gradient(kind: str, padding: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The routing weights and the router's gradient of a micro-batch of one sequence of eight tokens."""
    config = TransformerConfig(
        num_layers=1, hidden_size=4, num_attention_heads=1, num_moe_experts=4, moe_router_topk=2,
        moe_router_load_balancing_type=kind, moe_aux_loss_coeff=0.01, use_cpu_initialization=True,
    )
    module = router.TopKRouter(config, pg_collection=ProcessGroupCollection.use_mpu_process_groups())
    states = torch.randn(8, 1, 4, generator=torch.Generator().manual_seed(1))
    weights, _ = module(states, padding_mask=torch.full((8, 1), padding))
    weights.sum().backward()
    return weights, module.weight.grad


for kind in ("aux_loss", "seq_aux_loss"):
    for padding in (False, True):
        weights, grad = gradient(kind, padding)
        print(f"{kind}, padding {padding}: NaN in the gradient {grad.isnan().any().item()}")
        assert weights.isfinite().all()
        assert grad.isnan().any() == padding, "changed"
PYTHON
