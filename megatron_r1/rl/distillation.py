"""The loss of on-policy distillation: reverse KL, student to teacher, on what the student samples.

Of a token that the student drew, g = log p_student - log p_teacher is an unbiased estimate of
KL(student || teacher) at its position, and g times the gradient of log p_student one of that KL's gradient
with the tokens before it held fixed: what GKD computes from whole distributions (2306.13649, reverse KL on
the student's samples only). Taken so, it needs no teacher's logits and holds in any layout.
"""

# T packed tokens

import torch
from torch import Tensor

from megatron_r1.rl.base import k3, sum_and_count
from megatron_r1.types import PackedBatch


def reverse_kl_loss(
    logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """[T] before the weights: its value is the KL estimate g, its gradient g times that of logprobs.

    Reads teacher_logprobs and rollout_logprobs. Metrics, means over response tokens, as in
    base.py: kl (k3 of g), kl_k1 (g itself), entropy, drift.
    """
    response, inputs = batch.weights > 0, batch.loss_inputs
    own = logprobs.detach()
    gap = torch.where(response, own - inputs.required("teacher_logprobs"), 0.0)
    drift = (own - inputs.required("rollout_logprobs")).abs()
    values = {"kl": k3(gap), "kl_k1": gap, "drift": drift}
    if entropy is not None:
        values["entropy"] = entropy
    loss = gap + gap * torch.where(response, logprobs - own, 0.0)
    return loss, {name: sum_and_count(value, response) for name, value in values.items()}
