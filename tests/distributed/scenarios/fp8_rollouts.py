"""Rollouts in FP8 next to the training forward, and next to those of the weights as they are stored."""

from pathlib import Path
from typing import Any

import torch

from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.backend.rollout.decoder import expert_parallel, linear
from megatron_r1.backend.rollout.decoder.decoder import LeanDecoder
from megatron_r1.backend.rollout.decoder.speculative import DraftingDecoder
from megatron_r1.backend.rollout.engine import RolloutOptions
from megatron_r1.backend.rollout.fp8 import fp8_bytes, rounded_weights
from megatron_r1.config.layout import Layout
from megatron_r1.errors import ConfigError
from megatron_r1.models.deepseek_v3 import DeepseekV3
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.rl.losses import GrpoLoss
from megatron_r1.types import LossInputs, Sampled, Sampling, TrainSequence
from tests.distributed.scenarios import models
from tests.distributed.scenarios.train import cross_entropy

FITTING = {**models.V3, "qk_pos_emb_head_dim": 16}  # kv_lora_rank + 16 = 32
FAMILIES: dict[str, FamilyConfig] = {
    "v3": DeepseekV3(**FITTING),
    "v3_plain": DeepseekV3(**{**FITTING, "q_lora_rank": None, "yarn": None, "mtp_layers": 0}),
    "qwen2": models.FAMILIES["qwen2"],
}
SAMPLING = Sampling(max_new_tokens=12, temperature=0.9, seed=3)
PROMPTS = 8
CAP = 1.02  # low enough that some weights are cut


def policy_of(
    family: FamilyConfig, layout: Layout, *, own: Layout | None = None, engine: rollout.Engine = "megatron"
) -> MegatronPolicy:
    """Sampling in FP8; own: the rollout's layout."""
    return MegatronPolicy(
        family, layout, ModelOptions(), seed=11, eos_ids=(models.EOS,), tokens_per_pack=models.LENGTH,
        rollout_layout=own, rollout_options=RolloutOptions(engine=engine, precision="fp8"),
    )  # fmt: skip


def sample(
    layout: Layout, shared: Path, *, family: str, own_layout: dict[str, int] | None = None, whole: bool = True
) -> dict[str, Any]:
    """By when: each prompt's output with the log-probs of sampling and of training's forward. whole: also a
    few at a time, from the weights as they are stored, and after an update."""
    own = None if own_layout is None else Layout(**own_layout)
    policy = policy_of(FAMILIES[family], layout, own=own)
    found = {"new": _sampled(policy)}
    if layout.expert > 1 and own is None:
        found["dispatched"] = _dispatched(policy)
    if not whole:
        return found
    policy.rollout_options.rows = 3
    found["few"] = _sampled(policy)
    policy.rollout_options.rows = None
    policy.rollout_options.precision = None
    found["stored"] = _sampled(policy)
    policy.start_training(models.OPTIMIZER)
    policy.train_step(models.batch(0), cross_entropy, lr=1e-2)
    policy.rollout_options.precision = "fp8"
    found["updated"] = _sampled(policy)
    return found


def _dispatched(policy: MegatronPolicy) -> list[dict[str, Any]]:
    """Where the exchange may cost no bytes, Megatron's dispatcher brings tokens to the experts."""
    before = expert_parallel.EXTRA_BYTES["cpu"]
    expert_parallel.EXTRA_BYTES["cpu"] = -(2**40)
    try:
        return _sampled(policy)
    finally:
        expert_parallel.EXTRA_BYTES["cpu"] = before


def _sampled(policy: MegatronPolicy) -> list[dict[str, Any]]:
    replicas = policy.replicas
    keys = list(range(PROMPTS))[replicas.index :: replicas.count]
    prompts = [[2 + (7 * key + i) % 60 for i in range(1 + key % 5)] for key in keys]
    outputs = policy.generate(prompts, SAMPLING, keys=keys)
    rows = [torch.tensor(prompt + o.token_ids) for prompt, o in zip(prompts, outputs, strict=True)]
    trained = policy.logprobs(
        [TrainSequence(row, torch.ones(len(row))) for row in rows], temperature=SAMPLING.temperature
    )
    found = [
        {
            "key": key,
            "prompt": prompt,
            "tokens": o.token_ids,
            "rollout": o.logprobs,
            "training": v[len(prompt) :].tolist(),
        }
        for key, prompt, o, v in zip(keys, prompts, outputs, trained, strict=True)
    ]
    return sorted(replicas.gather(found), key=lambda row: row["key"])


def drafted(layout: Layout, shared: Path) -> dict[str, Any]:
    """Outputs with and without drafts, and which weights either decoder rounds."""
    policy = policy_of(FAMILIES["v3"], layout)
    plain = _outputs(policy)
    policy.rollout_options.speculation = "mtp"
    with_drafts = _outputs(policy)
    (chunk,) = policy.chunks
    named = dict(rounded_weights(chunk))
    return {
        "plain": [o.token_ids for o in plain],
        "drafted": [o.token_ids for o in with_drafts],
        "accepted": sum(o.trace.accepted for o in with_drafts),
        "gap": max(
            abs(a - b)
            for one, other in zip(plain, with_drafts, strict=True)
            for a, b in zip(one.logprobs, other.logprobs, strict=True)
        ),
        "by_lean": _rounds(policy, LeanDecoder),
        "by_drafting": _rounds(policy, DraftingDecoder),
        "bytes": sum(fp8_bytes(weight) for name, weight in named.items() if name.startswith("decoder.")),
        "named": sorted(named),
        "named_of_model": sorted(name for name in named if name.startswith("decoder.")),
    }


def _outputs(policy: MegatronPolicy) -> list[Sampled]:
    return policy.generate([[5, 6, 7], [9], [4, 4, 30, 8]], SAMPLING, keys=[0, 1, 2])


def _rounds(policy: MegatronPolicy, decoder: type[LeanDecoder]) -> list[str]:
    """The names of the weights that a decoder rounds."""
    (chunk,) = policy.chunks
    names = {id(weight): name for name, weight in chunk.named_parameters()}
    found: list[str] = []

    class Recorded(linear.Fp8Product):
        def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
            super().__init__(weight, bias)
            found.append(names[id(weight)])

    real, linear.Fp8Product = linear.Fp8Product, Recorded
    try:
        with rollout.inference(policy.chunks):
            decoder(policy.chunks, rows=1, length=8, precision="fp8")
    finally:
        linear.Fp8Product = real
    return sorted(found)


def corrected(layout: Layout, shared: Path) -> dict[str, float]:
    """Metrics of an update on FP8's samples with truncated importance weights, and what they are by hand."""
    policy = policy_of(FAMILIES["qwen2"], layout)
    policy.start_training(models.OPTIMIZER)
    rows = _sampled(policy)
    gaps = torch.tensor([a - b for row in rows for a, b in zip(row["training"], row["rollout"], strict=True)])
    options = GrpoLoss(kl="none", rollout_correction="truncate", rollout_cap=CAP)
    stats = policy.train_step([_to_train(row) for row in rows], options.function(), lr=1e-3, temperature=0.9)
    return {
        "drift": stats.metrics["drift"],
        "drift_by_hand": float(gaps.abs().mean()),
        "correction": stats.metrics["correction"],
        "correction_by_hand": float(gaps.exp().clamp(max=CAP).mean()),
        "above_cap": float((gaps.exp() > CAP).float().mean()),
        "ratio": stats.metrics["ratio"],
    }


def _to_train(row: dict[str, Any]) -> TrainSequence:
    """With an advantage of 1."""
    count = len(row["tokens"])
    given = torch.tensor(row["prompt"])
    zeros = torch.zeros(len(given))
    inputs = {
        "advantages": [1.0] * count,
        "old_logprobs": row["training"],
        "rollout_logprobs": row["rollout"],
    }
    return TrainSequence(
        torch.cat([given, torch.tensor(row["tokens"])]),
        torch.cat([zeros, torch.ones(count)]),
        LossInputs(**{name: torch.cat([zeros, torch.tensor(values)]) for name, values in inputs.items()}),
    )


def refused(layout: Layout, shared: Path) -> list[str]:
    """What a policy says that can't decode in FP8: of an engine, of layers, of widths, of a layout."""
    clamped = {**FITTING, "megatron": {"activation_func_clamp_value": 0.02}}
    cases: list[tuple[dict[str, Any], rollout.Engine]] = [
        (FITTING, "modules"),
        (clamped, "megatron"),
        (models.V3, "megatron"),
    ]
    found = []
    for shape, engine in cases:
        try:
            policy_of(DeepseekV3(**shape), layout, engine=engine)
        except ConfigError as error:
            found.append(str(error))
    return found
