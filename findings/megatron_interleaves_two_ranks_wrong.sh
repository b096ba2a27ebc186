#!/usr/bin/env bash
# megatron-core 0.19.2: an interleaved pipeline of two ranks takes gradients for activations.
#
# Expected: with pipeline_model_parallel_size 2 and virtual_pipeline_model_parallel_size 2 the configuration as it
# is (batch_p2p_comm is True) either works or is refused.
# Seen: the next rank is also the previous one, and both messages of a step go there in one batch without tags:
# each rank receives the gradient as its input and the activation as its gradient. The shapes agree, so that
# nothing fails. Megatron-LM's command line refuses it (training/arguments.py); Megatron-Core does not, and
# batch_p2p_comm=False is right.
# megatron_r1 sets batch_p2p_comm=False and overlap_p2p_comm=True for such layouts (backend/model/build.py).
# It needs Python 3.12 or newer, as megatron-core does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check uv
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" torch==2.13.0 megatron-core==0.19.2
cat > "$folder/pipeline.py" <<'PYTHON'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing

SHAPE = (1, 1, 2)


def main(rank: int, store: str) -> None:
    from megatron.core.model_parallel_config import ModelParallelConfig
    from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

    torch.cuda.current_device = lambda: "cpu"  # Megatron asks for it also where there is no GPU
    torch.cuda.synchronize = lambda: None
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(store, 2))
    group, other = dist.new_group([0, 1]), 1 - rank
    for batched in (True, False):
        config = ModelParallelConfig(
            pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2, pipeline_dtype=torch.float32,
            **({} if batched else {"batch_p2p_comm": False, "overlap_p2p_comm": True}),
        )
        assert config.batch_p2p_comm == batched
        communicator = P2PCommunicator(group, config)
        activation, gradient = torch.full(SHAPE, 10.0 + rank), torch.full(SHAPE, -10.0 - rank)
        found = communicator.send_forward_backward_recv_forward_backward(
            activation, gradient, recv_prev=True, recv_next=True, tensor_shape=SHAPE
        )
        received = [tensor[0, 0, 0].item() for tensor in found]
        sent = [10.0 + other, -10.0 - other]
        print(f"rank {rank}, batched {batched}: sent (activation, gradient) {sent}, received {received}", flush=True)
        assert received == (sent[::-1] if batched else sent), "changed"


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, (sys.argv[1],), nprocs=2)
PYTHON
TORCHDYNAMO_DISABLE=1 "$folder/venv/bin/python" -W ignore "$folder/pipeline.py" "$folder/store"
