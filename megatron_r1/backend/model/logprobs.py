"""Log-probabilities of tokens from vocabulary-parallel logits, with temperature and entropy."""

# T tokens, V vocabulary, V/tp this rank's shard of it

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor


def token_logprobs(logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """logits: [T, 1, V/tp]; labels: [T]. Returns [T] float32 log-probs under softmax(logits / temperature).

    Megatron's fused cross entropy works in place on fp32 logits: don't use them afterwards.
    """
    scaled = logits.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    return -vocab_parallel_cross_entropy(scaled, labels[:, None])[:, 0]


@torch.no_grad()
def token_entropy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """logits: [T, 1, V/tp]. Returns [T] float32 entropies (nats) of the full distribution.

    H = log Z - sum p * logit. Without gradient: R1's objective has no entropy term.
    """
    shifted = logits[:, 0].float() / temperature  # a copy, then changed in place: logits are large
    shifted -= _over_vocabulary(shifted.amax(-1), dist.ReduceOp.MAX)[:, None]
    weights = shifted.exp()
    partial = torch.stack([weights.sum(-1), weights.mul_(shifted).sum(-1)])
    total, weighted = _over_vocabulary(partial, dist.ReduceOp.SUM)
    return total.log() - weighted / total


def _over_vocabulary(values: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        dist.all_reduce(values, op=op, group=parallel_state.get_tensor_model_parallel_group())
    return values
