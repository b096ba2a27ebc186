"""Training that follows a rollout's routes and its nuclei."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from megatron_r1.backend.model.logprobs import token_entropy, token_logprobs
from megatron_r1.backend.model.top_p_mask import join_lists, pairs, truncate
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.backend.rollout.decoder.module_decoder import ModuleDecoder
from megatron_r1.config.layout import Layout
from megatron_r1.stages.grpo.balance import deal
from megatron_r1.types import LossInputs, Nucleus, PackedBatch, Sampled, Sampling, TrainSequence
from tests.distributed.scenarios import models
from tests.distributed.scenarios.train import LEARNING_RATE, cross_entropy

PROMPTS = ([5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [20, 21])
MOE_LAYERS, TOP_K, EXPERTS = 3, 2, 8  # of models.V3


def drift(layout: Layout, shared: Path, *, temperature: float = 1.0, top_p: float = 1.0) -> dict[str, Any]:
    """Largest gap of rollout and training log-probs, on the rollout's routes and on the trainer's own.

    The routers are made unstable in between: noise on expert_bias, which chooses experts and weighs none.
    """
    policy = models.policy("v3", layout, seed=11)
    keys = list(range(len(PROMPTS)))[policy.replicas.index :: policy.replicas.count]
    sampling = Sampling(16, temperature, top_p, seed=5, keep_routes=True, keep_nucleus=top_p < 1)
    outputs = policy.generate([PROMPTS[key] for key in keys], sampling, keys=keys)
    sequences = [sequence_of(PROMPTS[key], output) for key, output in zip(keys, outputs, strict=True)]
    calm = _gap(policy, sequences, outputs, temperature)
    with unstable_routers(policy):
        followed = _gap(policy, sequences, outputs, temperature)
        own = _gap(policy, [replace(s, routes=None) for s in sequences], outputs, temperature)
    whole = _gap(policy, [replace(s, nucleus=None) for s in sequences], outputs, temperature)
    again = policy.generate([PROMPTS[key] for key in keys], sampling, keys=keys)
    rows = [(key, output.token_ids, _routes_of(output)) for key, output in zip(keys, outputs, strict=True)]
    return {
        "calm": calm,
        "followed": followed,
        "own": own,
        "whole_vocabulary": whole,
        "rows": sorted(policy.replicas.gather(rows)),
        "same_again": all(
            a.token_ids == b.token_ids and _routes_of(a) == _routes_of(b)
            for a, b in zip(outputs, again, strict=True)
        ),
    }


def _routes_of(output: Sampled) -> Any:
    return None if output.trace.routes is None else output.trace.routes.sort(-1).values.tolist()


def sequence_of(prompt: Sequence[int], output: Sampled) -> TrainSequence:
    nucleus, given = output.trace.nucleus, len(prompt)
    if nucleus is not None:
        nucleus = Nucleus(nucleus.ids, torch.cat([nucleus.offsets.new_zeros(given), nucleus.offsets]))
    tokens = torch.tensor([*prompt, *output.token_ids])
    weights = torch.cat([torch.zeros(given), torch.ones(len(output.token_ids))])
    return TrainSequence(tokens, weights, routes=output.trace.routes, nucleus=nucleus)


def _gap(
    policy: MegatronPolicy, sequences: list[TrainSequence], outputs: list[Sampled], temperature: float
) -> float:
    found = policy.logprobs(sequences, temperature=temperature)
    gaps = [
        (values[s.weights > 0] - torch.tensor(o.logprobs)).abs().max()
        for s, o, values in zip(sequences, outputs, found, strict=True)
    ]
    return float(max(gaps))


@contextmanager
def unstable_routers(policy: MegatronPolicy) -> Iterator[None]:
    """Within: every router prefers other experts, the same in every layout."""
    biases = [module.expert_bias for chunk in policy.chunks for module in chunk.modules()
              if hasattr(module, "expert_bias")]  # fmt: skip
    kept = [bias.clone() for bias in biases]
    noise = torch.randn(EXPERTS, generator=torch.Generator().manual_seed(1))
    for bias in biases:
        bias.add_(noise)
    try:
        yield
    finally:
        for bias, before in zip(biases, kept, strict=True):
            bias.copy_(before)


def routed_steps(
    layout: Layout, shared: Path, *, recompute: str = "none", routed: bool = True, dealt: bool = False
) -> dict[str, Any]:
    """Three updates on given, random routes; routed=False: on the routers' own.

    dealt: the first replica has all sequences, and they are dealt to all.
    """
    policy = models.policy("v3", layout, seed=7, recompute=recompute)
    policy.start_training(models.OPTIMIZER)
    losses, norms, mtp = [], [], []
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        batch = models.batch(step)
        if routed:
            batch = [replace(s, routes=_random_routes(s, generator)) for s in batch]
        mine = batch[policy.replicas.index :: policy.replicas.count]
        if dealt:
            held = batch if policy.replicas.index == 0 else []
            mine = deal(
                held, policy.replicas, num_updates=1, inner_epochs=1, seed=step, step=step, balanced=True
            ).sequences
            assert len(mine) == len(batch) // policy.replicas.count
        stats = policy.train_step(mine, cross_entropy, lr=LEARNING_RATE, mtp=True)
        losses.append(stats.loss)
        norms.append(stats.grad_norm)
        mtp.append(stats.metrics["mtp_loss"])
    return {"loss": losses, "grad_norm": norms, "mtp_loss": mtp}


def _random_routes(sequence: TrainSequence, generator: torch.Generator) -> Tensor:
    scores = torch.rand(len(sequence.token_ids) - 1, MOE_LAYERS, EXPERTS, generator=generator)
    return scores.topk(TOP_K).indices.to(torch.uint8)


def gates(layout: Layout, shared: Path) -> dict[str, Any]:
    """What one update on given routes does: gradients of the gates, the experts that were used."""
    policy = models.policy("v3", layout, seed=99)
    policy.start_training(models.OPTIMIZER)
    batch = models.batch(0)[:1]
    routes = torch.tensor([[6, 7]]).expand(models.LENGTH, MOE_LAYERS, TOP_K).to(torch.uint8)
    chunk = policy.chunks[0]
    before = {name: p.detach().clone() for name, p in chunk.named_parameters()}
    policy.train_step([replace(batch[0], routes=routes)], cross_entropy, lr=LEARNING_RATE, mtp=True)
    gradients = {name: float(p.main_grad.abs().max()) for name, p in chunk.named_parameters()}
    moved = {name for name, p in chunk.named_parameters() if not torch.equal(p, before[name])}
    return {
        "router_gradients": [g for name, g in gradients.items() if "decoder" in name and "router" in name],
        "used_experts": sorted({_expert(n) for n, g in gradients.items() if _is_decoder_expert(n) and g > 0}),
        "mtp_experts": sorted({_expert(n) for n, g in gradients.items() if _is_mtp_expert(n) and g > 0}),
        "routers_moved": sum("decoder" in name and "router" in name for name in moved),
    }


def _is_decoder_expert(name: str) -> bool:
    return name.startswith("decoder") and "local_experts" in name


def _is_mtp_expert(name: str) -> bool:
    return name.startswith("mtp") and "local_experts" in name


def _expert(name: str) -> int:
    return int(name.split("local_experts.")[1].split(".")[0])


def truncated_by_hand(layout: Layout, shared: Path, *, temperature: float) -> dict[str, float]:
    """Largest differences to torch.log_softmax over each position's nucleus of the whole vocabulary."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(40, 1, 96, generator=generator)  # [T, 1, V]
    labels = torch.randint(0, 96, (40,), generator=generator)
    allowed = torch.rand(40, 96, generator=generator) < 0.1
    allowed[torch.arange(40), labels] = True
    allowed[::5] = True  # not truncated: an empty list
    lists = [row.nonzero()[:, 0] if i % 5 else torch.zeros(0) for i, row in enumerate(allowed)]
    rank, size = (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )
    mine = logits.chunk(size, dim=-1)[rank].clone().requires_grad_()
    cut = truncate(mine * 1.0, pairs(join_lists(lists)))
    entropy = token_entropy(cut, temperature=temperature)
    logprobs = token_logprobs(cut, labels, temperature=temperature)
    (logprobs * torch.arange(40)).sum().backward()

    whole = logits.clone().requires_grad_()
    log_softmax = (whole[:, 0] / temperature).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    expected = log_softmax.gather(1, labels[:, None])[:, 0]
    (expected * torch.arange(40)).sum().backward()
    assert whole.grad is not None
    assert mine.grad is not None
    return {
        "logprobs": float((logprobs - expected).abs().max()),
        "entropy": float((entropy - torch.special.entr(log_softmax.exp()).sum(-1)).abs().max()),
        "gradient": float((mine.grad - whole.grad.chunk(size, dim=-1)[rank]).abs().max()),
    }


def on_policy_ratio(layout: Layout, shared: Path) -> dict[str, float]:
    """The update's log-probs against `logprobs` of the same weights, truncated and routed."""
    policy = models.policy("v3", layout, seed=11)
    policy.refresh_reference()
    policy.start_training(models.OPTIMIZER)
    keys = list(range(len(PROMPTS)))[policy.replicas.index :: policy.replicas.count]
    sampling = Sampling(16, 0.9, 0.8, seed=5, keep_routes=True, keep_nucleus=True)
    outputs = policy.generate([PROMPTS[key] for key in keys], sampling, keys=keys)
    sequences = [sequence_of(PROMPTS[key], output) for key, output in zip(keys, outputs, strict=True)]
    old = policy.logprobs(sequences, temperature=0.9)
    reference = policy.logprobs(sequences, reference=True, temperature=0.9)
    batch = [
        replace(s, loss_inputs=LossInputs(old_logprobs=a, ref_logprobs=b))
        for s, a, b in zip(sequences, old, reference, strict=True)
    ]

    def loss(logprobs: Tensor, entropy: Tensor | None, packed: PackedBatch) -> Any:
        weighed = packed.weights > 0
        gaps = {
            name: (logprobs - packed.loss_inputs.required(name))[weighed].abs().sum()
            for name in packed.loss_inputs.names
        }
        count = weighed.sum()
        report = {name: torch.stack([gap.detach(), count]) for name, gap in gaps.items()}
        assert entropy is not None
        report["entropy"] = torch.stack([entropy[weighed].sum(), count])
        return -logprobs, report

    stats = policy.train_step(batch, loss, lr=0.0, temperature=0.9, entropy=True)
    return dict(stats.metrics)


class Foreign(torch.nn.Module):
    """Stands for Transformer Engine's attention, which can't be built here."""

    def forward(self, *args: Any, **options: Any) -> Tensor:
        raise AssertionError("sampled without heeding the padding")


def foreign_attention(layout: Layout, shared: Path) -> dict[str, Any]:
    """What the modules sample with somebody else's attention and FP8 in the configuration, and without."""
    policy = models.policy("v3", layout, seed=11)
    chunks, sampling, keys = policy.chunks, Sampling(8, seed=5), [0, 1, 2, 3]

    def sample() -> list[list[int]]:
        found = rollout.generate(
            chunks, PROMPTS, sampling, keys=keys, eos_ids=(models.EOS,), decoder=ModuleDecoder
        )
        return [output.token_ids for output in found]

    expected = sample()
    attentions = [layer.self_attention for layer in chunks[0].decoder.layers]
    for attention in attentions:
        attention.core_attention = Foreign()
    chunks[0].config.fp8 = "hybrid"
    tokens = sample()
    restored = all(isinstance(attention.core_attention, Foreign) for attention in attentions)
    return {
        "expected": expected,
        "tokens": tokens,
        "restored": restored and chunks[0].config.fp8 == "hybrid",
    }
