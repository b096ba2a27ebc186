#!/usr/bin/env bash
# megatron-core 0.19.2: a padding mask beside an expert bias masks experts instead of tokens, where it works.
#
# Expected: GPTModel's padding_mask keeps padding out of the counts that move the router's bias (DeepSeek-V3's
# balance without an auxiliary loss), as it keeps it out of the losses.
# Seen: a map [tokens, experts] and a mask [tokens] are combined as they are. That is an error about sizes for
# most batches; with as many tokens as experts it is silent, and the mask of token i takes expert i out: two
# padded tokens of eight, and no token at all is counted for the last two experts.
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


def counts(tokens: int, padded: int) -> list[float]:
    """Tokens an expert of eight, of one-hot tokens that each choose another one; the last ones are padding."""
    config = TransformerConfig(
        num_layers=1, hidden_size=8, num_attention_heads=1, num_moe_experts=8, moe_router_topk=1,
        moe_router_score_function="sigmoid", moe_router_enable_expert_bias=True, use_cpu_initialization=True,
        moe_router_load_balancing_type="none",
    )
    module = router.TopKRouter(config, pg_collection=ProcessGroupCollection.use_mpu_process_groups())
    module.weight.data = torch.eye(8)
    states = torch.eye(8).flip(0)[:tokens, None]  # token i chooses expert 7 - i
    module(states, padding_mask=(torch.arange(tokens) >= tokens - padded)[:, None])
    return module.local_tokens_per_expert.tolist()


found = counts(8, padded=2)
print(f"experts 0 and 1 are chosen by padding; counted are {found}")
assert found == [1, 1, 1, 1, 1, 1, 0, 0], "changed"
try:
    print(counts(6, padded=2))
except RuntimeError as error:
    print(f"six tokens: {error}")
else:
    raise SystemExit("changed: six tokens work")
PYTHON
