#!/usr/bin/env bash
# megatron-core 0.19.2: seq_aux_loss weighs a sequence of a padded batch by the square of its length.
#
# Expected: each sequence has a loss of its own and all count alike (DeepSeek-V3, equations 17-20): a router that
# is in perfect balance in each sequence has the loss 1, whatever their lengths are.
# Seen: with a padding_mask all sequences are divided by the square of their mean length: lengths of 8 and 4 in
# perfect balance have (64 + 16) / 2 / 36 = 1.11, and a sequence twice as long pulls four times as hard. Without
# padding the loss is 1.
# megatron_r1 counts by sequence in a router of its own (backend/model/router.py).
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
losses = []
attach = router.TopKRouter.attach_and_log_load_balancing_loss


def noted(self, activation, aux_loss_coeff, aux_loss, *rest, **others):
    losses.append(aux_loss.item())
    return attach(self, activation, aux_loss_coeff, aux_loss, *rest, **others)


router.TopKRouter.attach_and_log_load_balancing_loss = noted


def sequence_loss(lengths: list[int]) -> float:
    """The loss of one-hot tokens that take the four experts in turn."""
    config = TransformerConfig(
        num_layers=1, hidden_size=4, num_attention_heads=1, num_moe_experts=4, moe_router_topk=1,
        moe_router_pre_softmax=True, moe_router_load_balancing_type="seq_aux_loss", moe_aux_loss_coeff=1.0,
        use_cpu_initialization=True,
    )
    module = router.TopKRouter(config, pg_collection=ProcessGroupCollection.use_mpu_process_groups())
    module.weight.data = torch.eye(4)
    states = 20 * torch.eye(4).repeat(2, 1)[:, None].repeat(1, len(lengths), 1)  # [8 tokens, sequences, 4]
    padding = torch.arange(8)[:, None] >= torch.tensor(lengths)
    module(states, padding_mask=padding)
    return losses.pop()


for lengths in ([8, 8], [4, 4], [8, 4]):
    loss = sequence_loss(lengths)
    mean = sum(lengths) / 2
    print(f"lengths {lengths}: {loss:.4f}")
    assert abs(loss - sum(n**2 for n in lengths) / 2 / mean**2) < 1e-4, "changed"
PYTHON
