"""Training: the same steps in any layout, from a checkpoint, and on from another."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_r1.backend.model.router import PackRouter
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.config.layout import Layout
from megatron_r1.stages.grpo.batch import idle_sequence
from megatron_r1.types import PackedBatch, Sampling, TrainSequence
from tests.distributed.scenarios import models

LEARNING_RATE = 1e-2


def cross_entropy(
    logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    return -logprobs, {}


def steps(policy: MegatronPolicy, first: int, last: int) -> dict[str, list[float]]:
    """Updates first .. last - 1 of the fixed data."""
    losses, norms, mtp = [], [], []
    for step in range(first, last):
        mine = models.batch(step)[policy.replicas.index :: policy.replicas.count]
        stats = policy.train_step(mine, cross_entropy, lr=LEARNING_RATE, mtp=True)
        losses.append(stats.loss)
        norms.append(stats.grad_norm)
        mtp.append(stats.metrics.get("mtp_loss", 0.0))
    return {"loss": losses, "grad_norm": norms, "mtp_loss": mtp}


def logprob_values(policy: MegatronPolicy, *, reference: bool = False) -> list[float]:
    """Of two fixed sequences."""
    found = policy.logprobs(models.batch(99)[:2], reference=reference)
    return [value for each in found for value in each.tolist()]


def write_start(layout: Layout, shared: Path, *, family: str) -> None:
    """Weights to start from, two steps off the initial ones so that the router's bias is not zero."""
    policy = models.policy(family, layout, seed=7)
    policy.start_training(models.OPTIMIZER)
    steps(policy, 50, 52)
    policy.optimizer = None  # an optimizer-free checkpoint
    policy.save(shared / f"start_{family}", {"stage": "start"})


def from_start(
    layout: Layout,
    shared: Path,
    *,
    family: str,
    precision: str = "fp32",
    recompute: str = "none",
    save_as: str = "",
    rollout_first: bool = False,
    optimizer_first: bool = False,
    num_steps: int = 5,
    beside: bool = False,
) -> dict[str, Any]:
    """Steps from `write_start`'s weights; save_as: also a checkpoint after the third.

    beside: as layout.overlap_experts, which Megatron's configuration takes in bf16 only.
    """
    policy = models.policy(family, layout, seed=99, precision=precision, recompute=recompute)
    policy.chunks[0].config.overlap_moe_expert_parallel_comm |= beside
    if optimizer_first:
        policy.start_training(models.OPTIMIZER)
    policy.load(shared / f"start_{family}", weights_only=True)
    policy.refresh_reference()
    if not optimizer_first:
        policy.start_training(models.OPTIMIZER)
    if rollout_first:
        policy.generate([[5, 6, 7], [8]], Sampling(max_new_tokens=4), keys=[1, 2])
    curve = steps(policy, 0, min(3, num_steps))
    if save_as:
        policy.save(shared / save_as, {"step": 3, "cursor": [1, 2]})
    after = steps(policy, 3, num_steps)
    routers = [m for chunk in policy.chunks for m in chunk.modules() if isinstance(m, PackRouter)]
    assert all(router.pack is None for router in routers), "the next rollout would follow it"
    whole = {name: curve[name] + after[name] for name in curve}
    return {**whole, "logprobs": logprob_values(policy), "version": policy.version}


def resumed(
    layout: Layout, shared: Path, *, family: str, source: str, precision: str = "fp32"
) -> dict[str, Any]:
    """Steps four and five from a checkpoint after the third."""
    policy = models.policy(family, layout, seed=99, precision=precision)
    policy.start_training(models.OPTIMIZER)
    state = policy.load(shared / source)
    reference = logprob_values(policy, reference=True)
    curve = steps(policy, 3, 5)
    fused = all(group["fused"] for group in policy.optimizer.param_groups)
    return {
        **curve,
        "state": state,
        "reference_logprobs": reference,
        "logprobs": logprob_values(policy),
        "version": policy.version,
        "fused": fused,
    }


def uneven(
    layout: Layout, shared: Path, *, family: str = "v3", tokens_per_pack: int = 128, idle: bool = False
) -> dict[str, Any]:
    """Steps on sequences of uneven lengths: whatever shares a pack, and whatever fills it up.

    idle: the first replica has them all, the others what a stage gives a replica without any.
    """
    policy = models.policy(family, layout, seed=99)
    policy.load(shared / f"start_{family}", weights_only=True)
    policy.tokens_per_pack = tokens_per_pack
    policy.start_training(models.OPTIMIZER)
    found: dict[str, Any] = {"loss": [], "grad_norm": [], "expert_load": [], "num_tokens": []}
    whole = models.uneven_sequences()
    total = sum(len(sequence.token_ids) - 1 for sequence in whole)
    sequences = [replace(sequence, weights=sequence.weights / total) for sequence in whole]
    mine = sequences[policy.replicas.index :: policy.replicas.count]
    if idle:
        mine = sequences if policy.replicas.index == 0 else [idle_sequence(models.EOS, loss_inputs=())]
    for _ in range(3):
        stats = policy.train_step(mine, cross_entropy, lr=LEARNING_RATE, mtp=True)
        found["loss"].append(stats.loss)
        found["grad_norm"].append(stats.grad_norm)
        found["expert_load"].append(stats.metrics.get("expert_load", 0.0))
        found["num_tokens"].append(stats.num_tokens)
    routers = [m for chunk in policy.chunks for m in chunk.modules() if isinstance(m, PackRouter)]
    biases = [router.expert_bias for router in routers if router.expert_bias is not None]
    found["bias"] = [value for bias in biases for value in bias.tolist()]
    found["router"] = [value for router in routers for value in router.weight.sum(dim=1).tolist()]
    return found


def masked(
    layout: Layout, shared: Path, *, max_logits: int | None = None, prompt_logits: bool = False
) -> dict[str, Any]:
    """Steps in which few tokens count: some packs, context ranks and (of two) replicas have none."""
    policy = models.policy("v3", layout, seed=99, max_logits=max_logits, prompt_logits=prompt_logits)
    policy.load(shared / "start_v3", weights_only=True)
    policy.start_training(models.OPTIMIZER)
    sequences = [_ends_of(n, sequence) for n, sequence in enumerate(models.uneven_sequences())]
    found: dict[str, Any] = {"loss": [], "grad_norm": [], "mtp_loss": [], "entropy": []}
    for _ in range(2):
        mine = sequences[policy.replicas.index :: policy.replicas.count]
        stats = policy.train_step(mine, _with_entropy, lr=LEARNING_RATE, mtp=True, entropy=True)
        found["loss"].append(stats.loss)
        found["grad_norm"].append(stats.grad_norm)
        for name in ("mtp_loss", "entropy"):
            found[name].append(stats.metrics[name])
    values = policy.logprobs(sequences)
    counting = [v[s.weights > 0] for v, s in zip(values, sequences, strict=True)]
    others = [v[s.weights == 0] for v, s in zip(values, sequences, strict=True)]
    return found | {
        "logprobs": torch.cat(counting).tolist(),
        "elsewhere": int(torch.cat(others).count_nonzero()),
        "version": policy.version,
    }


def _ends_of(number: int, sequence: TrainSequence) -> TrainSequence:
    """Weights on the last quarter of every other sequence alone."""
    size = len(sequence.token_ids)
    counts = (torch.arange(size) >= size - size // 4) & (number % 2 == 0)
    return replace(sequence, weights=counts / 37)


def _with_entropy(logprobs: Tensor, entropy: Tensor | None, batch: PackedBatch) -> Any:
    assert entropy is not None
    response = batch.weights > 0
    return -logprobs, {"entropy": torch.stack([entropy[response].sum(), response.sum()])}


def offloaded(layout: Layout, shared: Path, *, family: str, precision: str, move: bool) -> dict[str, Any]:
    """Rollouts, reference passes, updates and a checkpoint, as GRPO has them; move: through host memory,
    which is other memory of the CPU here."""
    both = ("optimizer", "reference")
    policy = models.policy(family, layout, seed=99, precision=precision, offload=both)
    assert not policy.offload, "on a CPU nothing moves"
    if move:
        policy.offload = frozenset(both)
    policy.load(shared / f"start_{family}", weights_only=True)
    policy.refresh_reference()
    policy.start_training(models.OPTIMIZER)
    found: dict[str, Any] = {"loss": [], "grad_norm": [], "outputs": [], "reference": [], "freed": []}
    for step in range(3):
        outputs = policy.generate([[5, 6, 7], [8]], Sampling(max_new_tokens=4), keys=[1, 2])
        found["outputs"].append([output.token_ids for output in outputs])
        found["freed"].append(_freed(policy))
        found["reference"].append(logprob_values(policy, reference=True))
        if step == 1:
            policy.save(shared / f"offloaded_{move}_{family}_{precision}", {"step": step})
        for update in (2 * step, 2 * step + 1):
            curve = steps(policy, update, update + 1)
            found["loss"] += curve["loss"]
            found["grad_norm"] += curve["grad_norm"]
    found["logprobs"] = logprob_values(policy)
    resumed = models.policy(family, layout, seed=5, precision=precision)
    resumed.start_training(models.OPTIMIZER)
    resumed.load(shared / f"offloaded_{move}_{family}_{precision}")
    found["resumed"] = steps(resumed, 2, 4)["loss"]
    found["resumed_reference"] = logprob_values(resumed, reference=True)
    return found


def forgotten(layout: Layout, shared: Path, *, family: str) -> list[str]:
    """What of a policy that did all that a stage does is still there once nothing refers to it."""
    policy = models.policy(family, layout, seed=99)
    policy.refresh_reference()
    policy.start_training(models.OPTIMIZER)
    policy.generate([[5, 6, 7], [8]], Sampling(max_new_tokens=4), keys=[1, 2])
    logprob_values(policy, reference=True)
    steps(policy, 0, 1)
    policy.save(shared / f"forgotten_{family}", {"step": 1})
    policy.close()
    parts = {"weights": policy.chunks[0], "gradients": policy.models[0], "optimizer": policy.optimizer}
    left = {name: weakref.ref(part) for name, part in parts.items()}
    del policy, parts
    gc.collect()
    return [name for name, part in left.items() if part() is not None]


def _freed(policy: MegatronPolicy) -> list[int]:
    """Bytes that are not on the device now: of the optimizer, the gradients and the reference."""
    optimizer = policy.offloaded
    assert policy.reference is not None
    wrapped: list[Any] = list(policy.models)
    buffers = [b.grad_data for model in wrapped for b in (*model.buffers, *model.expert_parallel_buffers)]
    gone = [b for b in buffers if not b.untyped_storage().nbytes()]
    gradients = sum(b.numel() * b.element_size() for b in gone)
    away = 0 if optimizer is None else optimizer.state.offloaded_bytes
    return [away, gradients, policy.reference.host.offloaded_bytes]


def reference_of_start(layout: Layout, shared: Path, *, family: str) -> list[float]:
    """What the reference in every checkpoint here must say: the start's log-probs."""
    policy = models.policy(family, layout, seed=99)
    policy.load(shared / f"start_{family}", weights_only=True)
    return logprob_values(policy)
