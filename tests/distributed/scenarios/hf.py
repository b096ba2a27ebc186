"""Hugging Face's files in and out, on every layout."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from megatron_r1.backend.checkpoint.files import read_manifest
from megatron_r1.backend.checkpoint.load_hf import load_directory
from megatron_r1.backend.hf.export_checkpoint import ExportOptions, export_model, family_in
from megatron_r1.backend.hf.import_checkpoint import import_model
from megatron_r1.backend.hf.logits import traces
from megatron_r1.backend.hf.verify import verify
from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.backend.model.weight_slices import pieces
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.config.layout import Layout
from megatron_r1.huggingface.source import Source
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.models.weights import Shard
from megatron_r1.types import TrainSequence
from tests.distributed.harness.hf_models import prompts
from tests.distributed.scenarios import models
from tests.distributed.scenarios.train import cross_entropy

HF = "hf"  # folder of transformers' models


def policy_of(family: FamilyConfig, layout: Layout) -> MegatronPolicy:
    return MegatronPolicy(family, layout, ModelOptions(), seed=5, eos_ids=(1,), tokens_per_pack=64)


def no_progress(done: int, total: int) -> None:
    """Nobody looks."""


def load(layout: Layout, shared: Path, *, names: list[str]) -> dict[str, float]:
    """Into live models: the largest difference to transformers' logits."""
    found = {}
    for name in names:
        family = Source(shared / HF / name).plan().family
        policy = policy_of(family, layout)
        load_directory(policy.chunks, shared / HF / name, family)
        found[name] = difference(policy, shared / HF / f"{name}.safetensors")
    return found


def difference(policy: MegatronPolicy, expected: Path) -> float:
    answers = load_file(expected)
    found = traces(policy, prompts(policy.family.shape().vocab_size))
    return max(float((t.logits - answers[f"logits{i}"]).abs().max()) for i, t in enumerate(found))


def convert(layout: Layout, shared: Path, *, names: list[str]) -> dict[str, list[str]]:
    """Files -> checkpoint -> files, with as many ranks as there are; returns the warnings."""
    found = {}
    for name in names:
        checkpoint, out = shared / f"checkpoint_{name}", shared / f"exported_{name}"
        found[name] = import_model(shared / HF / name, checkpoint, precision=None, progress=no_progress)
        export_model(checkpoint, out, ExportOptions(), progress=no_progress)
    return found


def checkpoints(layout: Layout, shared: Path, *, names: list[str]) -> dict[str, float]:
    """What `convert` wrote, read into a live model of this layout."""
    found = {}
    for name in names:
        checkpoint = shared / f"checkpoint_{name}"
        policy = policy_of(family_in(read_manifest(checkpoint)), layout)
        policy.load(checkpoint, weights_only=True)
        found[name] = difference(policy, shared / HF / f"{name}.safetensors")
    return found


def mtp_loss(layout: Layout, shared: Path) -> float:
    """Of a fixed sequence, by the weights of v3_mtp."""
    directory = shared / HF / "v3_mtp"
    policy = policy_of(Source(directory).plan().family, layout)
    load_directory(policy.chunks, directory, policy.family)
    policy.start_training(models.OPTIMIZER)
    tokens = torch.tensor(prompts(policy.family.shape().vocab_size)[1])
    stats = policy.train_step(
        [TrainSequence(tokens, torch.ones(len(tokens)) / policy.replicas.count)],
        cross_entropy,
        lr=0.0,
        mtp=True,
    )
    return stats.metrics["mtp_loss"]


def trained(layout: Layout, shared: Path, *, name: str, label: str) -> dict[str, Any]:
    """Two steps from transformers' weights, a full checkpoint, and what its model says of the prompts."""
    directory = shared / HF / name
    policy = policy_of(Source(directory).plan().family, layout)
    load_directory(policy.chunks, directory, policy.family)
    policy.start_training(models.OPTIMIZER)
    for step in range(2):
        mine = models.batch(step)[policy.replicas.index :: policy.replicas.count]
        policy.train_step(mine, cross_entropy, lr=1e-3, mtp=False)
    policy.save(shared / f"trained_{label}", {})
    export_model(
        shared / f"trained_{label}",
        shared / f"exported_trained_{label}",
        ExportOptions(),
        progress=no_progress,
    )
    found = traces(policy, prompts(policy.family.shape().vocab_size))
    torch.save([t.logits for t in found], shared / f"trained_{label}.pt") if dist.get_rank() == 0 else None
    return {"moved": difference(policy, shared / HF / f"{name}.safetensors")}


def shards(layout: Layout, shared: Path, *, names: list[str]) -> list[str]:
    """Weights that the layout cuts otherwise than the table says."""
    found = []
    for name in names:
        family = Source(shared / HF / name).plan().family
        table = {weight.megatron: weight for weight in family.weights()}
        for piece in pieces(policy_of(family, layout).chunks):
            weight, place = table[piece.place.name], piece.place
            sizes = [len(place.rows), *([] if place.columns is None else [len(place.columns)])]
            cut = [axis for axis, size in enumerate(sizes) if size < weight.shape[axis]]
            # gate and up are pieces of their own
            if "linear_fc1.weight" in place.name and sizes[0] == weight.shape[0] // 2:
                cut.remove(0)
            inside_expert = ".experts." in place.name and layout.expert_tensor == 1
            expected = [] if weight.row.shard is Shard.NONE or inside_expert else [weight.row.shard.value]
            if cut != expected:
                found.append(f"{name}: {place.name}: axes {cut}, in the table {expected}")
    return found


def verified(layout: Layout, shared: Path, *, name: str) -> dict[str, Any]:
    """`verify` with our side on several ranks."""
    found = verify(shared / HF / name, shared / f"checkpoint_{name}", prompts(96), layout=layout)
    if found is None:
        return {}
    return {"text": found.text(), "relative": found.logits.relative, "places": len(found.places)}
