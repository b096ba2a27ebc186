"""The lean decoder next to Megatron's modules and to the training forward, on weights made to disagree."""

from pathlib import Path
from typing import Any

import torch

from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.backend.rollout.decoder import linear
from megatron_r1.backend.rollout.decoder.cuda_graphs import GraphedDecoder
from megatron_r1.backend.rollout.decoder.decoder import LeanDecoder, is_lean
from megatron_r1.backend.rollout.decoder.expert_weights import expert_weights, stacked
from megatron_r1.backend.rollout.decoder.module_decoder import ModuleDecoder
from megatron_r1.backend.rollout.engine import RolloutOptions
from megatron_r1.config.layout import Layout
from megatron_r1.config.rollout import conflicts, features, layout_features
from megatron_r1.models.deepseek_v3 import DeepseekV3
from megatron_r1.models.llama import Llama
from megatron_r1.models.qwen3 import Qwen3
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.types import Sampled, Sampling, TrainSequence
from tests.distributed.scenarios import models
from tests.distributed.scenarios.train import cross_entropy

DENSE: dict[str, Any] = {
    "vocab_size": models.VOCABULARY,
    "num_layers": 3,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "ffn_hidden_size": 128,
    "init_std": 0.15,
}
FAMILIES: dict[str, FamilyConfig] = {
    **models.FAMILIES,
    "v3_one_group": DeepseekV3(**{**models.V3, "num_expert_groups": None, "groups_per_token": None}),
    "qwen3": Qwen3(family="qwen3", head_dim=32, **DENSE),
    "llama": Llama(family="llama", **DENSE),
    "clamped": Llama(family="llama", **DENSE, megatron={"activation_func_clamp_value": 0.02}),
}
# several times the same prompt, and lengths apart
PROMPT_LENGTHS = (3, 11, 1, 7, 20, 5, 2, 9)
PLACES = (0, 1, 2, 3, 3, 3, 4, 0, 5, 6, 7, 6)
SAMPLING = Sampling(max_new_tokens=24, temperature=0.9, seed=3)


def compare(layout: Layout, shared: Path, *, family: str) -> dict[str, Any]:
    policy = uneven_policy(FAMILIES[family], layout)
    generator = torch.Generator().manual_seed(policy.replicas.index)
    unique = [torch.randint(2, models.VOCABULARY, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]
    prompts = [unique[place] for place in PLACES[: 5 if policy.replicas.index else None]]
    decoders = [ModuleDecoder, LeanDecoder]
    if not list(conflicts("megatron", features(cuda_graphs=True), layout_features(layout))):
        decoders.append(GraphedDecoder)
    outputs = {decoder.__name__: _generate(policy, prompts, decoder=decoder) for decoder in decoders}
    modules, lean = outputs["ModuleDecoder"], outputs["LeanDecoder"]
    few = {decoder.__name__: _generate(policy, prompts, decoder=decoder, rows=3) for decoder in decoders}
    graphed = outputs.get("GraphedDecoder", lean)
    return {
        "is_lean": is_lean(policy.chunks),
        "modules": [output.token_ids for output in modules],
        "lean": [output.token_ids for output in lean],
        "graphed": [output.token_ids for output in graphed],
        "graphed_to_lean": _largest([o.logprobs for o in graphed], [o.logprobs for o in lean]),
        "few": {name: [output.token_ids for output in found] for name, found in few.items()},
        "to_modules": _largest([o.logprobs for o in lean], [o.logprobs for o in modules]),
        "to_training": _largest([o.logprobs for o in lean], _training_logprobs(policy, prompts, lean)),
    }


def chosen(layout: Layout, shared: Path, *, family: str) -> dict[str, Any]:
    """What `generate` picks by itself."""
    policy = uneven_policy(FAMILIES[family], layout)
    prompts = [[5, 6, 7], [8]]
    outputs = _generate(policy, prompts, decoder=None)
    gap = _largest([o.logprobs for o in outputs], _training_logprobs(policy, prompts, outputs))
    lean = _generate(policy, prompts, decoder=LeanDecoder)
    lean_gap = _largest([o.logprobs for o in lean], _training_logprobs(policy, prompts, lean))
    return {"is_lean": is_lean(policy.chunks), "to_training": gap, "lean_to_training": lean_gap}


def grouped(layout: Layout, shared: Path) -> dict[str, Any]:
    """One product for all experts next to one for each, on a new model and on training's buffer."""
    policy = uneven_policy(FAMILIES["v3"], layout)
    prompts = [[5, 6, 7], [8], [9, 3, 4, 4]]
    found: dict[str, Any] = {}
    for when in ("new", "training"):
        if when == "training":
            policy.start_training(models.OPTIMIZER)
            policy.train_step(models.batch(0), cross_entropy, lr=1e-2)
        layers = [layer.mlp.experts for layer in policy.chunks[0].decoder.layers if layer.is_moe_layer]
        stacks = [stacked(expert_weights(e, name)) for e in layers for name in ("linear_fc1", "linear_fc2")]
        one, each = _generate(policy, prompts, decoder=LeanDecoder), _one_by_one(policy, prompts)
        found[when] = {
            "stacked": all(stack is not None for stack in stacks),
            "same_tokens": [o.token_ids for o in one] == [o.token_ids for o in each],
            "gap": _largest([o.logprobs for o in one], [o.logprobs for o in each]),
            "tokens": [o.token_ids for o in one],
        }
    return found


def _one_by_one(policy: MegatronPolicy, prompts: list[list[int]]) -> list[Sampled]:
    linear.stacked = lambda weights: None
    try:
        return _generate(policy, prompts, decoder=LeanDecoder)
    finally:
        linear.stacked = stacked


def uneven_policy(family: FamilyConfig, layout: Layout) -> MegatronPolicy:
    """Norms that aren't 1 and router biases that aren't 0."""
    policy = MegatronPolicy(
        family, layout, ModelOptions(), seed=11, eos_ids=(models.EOS,), tokens_per_pack=models.LENGTH
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in policy.chunks[0].named_parameters():
            if weight.dim() == 1:
                weight += 0.2 * torch.randn(weight.shape, generator=generator)
        for name, value in policy.chunks[0].named_buffers():
            if name.endswith("expert_bias"):
                value += 0.3 * torch.randn(value.shape, generator=generator)
    return policy


def _generate(
    policy: MegatronPolicy, prompts: list[list[int]], *, decoder: Any, rows: int | None = None
) -> list[Sampled]:
    keys = [100 * policy.replicas.index + i for i in range(len(prompts))]
    return rollout.generate(
        policy.chunks, prompts, SAMPLING, keys=keys, eos_ids=(models.EOS,),
        options=RolloutOptions(rows=rows), decoder=decoder,
    )  # fmt: skip


def _training_logprobs(
    policy: MegatronPolicy, prompts: list[list[int]], outputs: list[Sampled]
) -> list[list[float]]:
    rows = [torch.tensor(prompt + o.token_ids) for prompt, o in zip(prompts, outputs, strict=True)]
    found = policy.logprobs(
        [TrainSequence(row, torch.ones(len(row))) for row in rows], temperature=SAMPLING.temperature
    )
    return [values[len(prompt) :].tolist() for prompt, values in zip(prompts, found, strict=True)]


def _largest(ours: list[list[float]], others: list[list[float]]) -> float:
    pairs = [pair for a, b in zip(ours, others, strict=True) for pair in zip(a, b, strict=True)]
    return max(abs(a - b) for a, b in pairs)
