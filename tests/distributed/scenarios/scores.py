"""A reward model: the same scores and updates in any layout, from a language model's weights or its own."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_r1.backend.hf.import_checkpoint import import_model
from megatron_r1.backend.model.build import ModelOptions
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.backend.reward_model import MegatronScorer
from megatron_r1.config.layout import Layout
from megatron_r1.rl.preference import pair_loss
from megatron_r1.types import Sampling
from tests.distributed.scenarios import models
from tests.distributed.scenarios.train import logprob_values
from tests.huggingface import made_model


def scorer(
    family: str, layout: Layout, *, seed: int = 0, tokens_per_pack: int = models.LENGTH
) -> MegatronScorer:
    model = MegatronPolicy(
        models.FAMILIES[family], layout, ModelOptions(), seed=seed, eos_ids=(models.EOS,),
        tokens_per_pack=tokens_per_pack, score_head=True,
    )  # fmt: skip
    return MegatronScorer(model)


def pairs(step: int) -> list[list[int]]:
    """Chosen and rejected in turn, of uneven lengths."""
    generator = torch.Generator().manual_seed(3000 + step)
    lengths = (13, 40, 22, 7, 31, 31, 18, 50)
    return [torch.randint(2, models.VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def bradley_terry(scores: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """As the stage has it, over the four pairs of a step."""
    return pair_loss(scores, num_pairs=4)


def mine(sequences: list[list[int]], replicas: Any) -> list[list[int]]:
    """This replica's pairs, each whole."""
    each = [sequences[i : i + 2] for i in range(0, len(sequences), 2)]
    return [sequence for pair in each[replicas.index :: replicas.count] for sequence in pair]


def trained(
    layout: Layout, shared: Path, *, family: str, save_as: str = "", tokens_per_pack: int = models.LENGTH
) -> dict[str, Any]:
    """Three updates from the language model of train.write_start."""
    model = scorer(family, layout, seed=4, tokens_per_pack=tokens_per_pack)
    model.model.load(shared / f"start_{family}", weights_only=True)
    model.model.start_training(models.OPTIMIZER)
    found: dict[str, Any] = {"loss": [], "grad_norm": [], "accuracy": []}
    for step in range(3):
        stats = model.train_step(mine(pairs(step), model.replicas), bradley_terry, lr=1e-3)
        found["loss"].append(stats.loss)
        found["grad_norm"].append(stats.grad_norm)
        found["accuracy"].append(stats.metrics["pair_accuracy"])
    if save_as:
        model.model.save(shared / save_as, {"step": 3})
    found["scores"] = model.score(pairs(9))
    return found


def loaded(layout: Layout, shared: Path, *, family: str, source: str) -> list[float]:
    """Scores of a saved reward model."""
    model = scorer(family, layout, seed=5)
    model.model.load(shared / source, weights_only=True)
    return model.score(pairs(9))


def rested(layout: Layout, shared: Path, *, family: str, source: str) -> dict[str, Any]:
    """Scores before and after the weights went to host memory, which is other memory of the CPU here."""
    scorer_ = scorer(family, layout, seed=5)
    model = scorer_.model
    model.load(shared / source, weights_only=True)
    before = scorer_.score(pairs(9))
    model.offload_weights()
    assert model.offloaded_weights is None, "on a CPU nothing moves"
    weights = [tensor for chunk in model.chunks for tensor in (*chunk.parameters(), *chunk.buffers())]
    storages = {s.data_ptr(): s for s in (t.untyped_storage() for t in weights) if s.nbytes()}
    size = sum(storage.nbytes() for storage in storages.values())
    model.offload = frozenset({"reward_models"})
    model.offload_weights()
    assert model.offloaded_weights is not None
    found: dict[str, Any] = {"before": before, "after": [], "bytes": size, "left": [], "away": []}
    for _ in range(2):
        found["after"].append(scorer_.score(pairs(9)))
        found["left"].append(sum(storage.nbytes() for storage in storages.values()))
        found["away"].append(model.offloaded_weights.offloaded_bytes)
    found["moved"] = model.offloaded_weights.moved_bytes
    return found


def rested_judge(layout: Layout, shared: Path, *, family: str) -> dict[str, Any]:
    """What a judge or a teacher says, at home and from host memory."""
    policy = models.policy(family, layout, seed=99)
    policy.load(shared / f"start_{family}", weights_only=True)
    found: dict[str, Any] = {"said": [], "left": []}
    for moved in (False, True):
        if moved:
            policy.offload = frozenset({"reward_models"})
            policy.offload_weights()
        outputs = policy.generate([[5, 6, 7], [8]], Sampling(max_new_tokens=4), keys=[1, 2])
        left = [sum(p.untyped_storage().nbytes() for chunk in policy.chunks for p in chunk.parameters())]
        values = logprob_values(policy)
        left.append(sum(p.untyped_storage().nbytes() for chunk in policy.chunks for p in chunk.parameters()))
        found["said"].append([[output.token_ids for output in outputs], values])
        found["left"].append(left)
    return found


def from_files(layout: Layout, shared: Path) -> dict[str, float]:
    """The same language model as files and as a checkpoint: the largest gap of the weights and of scores."""
    source = made_model.write(shared / "score_hf", made_model.V3)
    import_model(source, shared / "score_checkpoint", precision=None, progress=lambda done, total: None)
    found = []
    for start in ("files", "checkpoint"):
        model = MegatronPolicy(
            made_model.V3, layout, ModelOptions(), seed=1, eos_ids=(0,), tokens_per_pack=models.LENGTH,
            score_head=True,
        )  # fmt: skip
        if start == "files":
            model.load_hugging_face(source)
        else:
            model.load(shared / "score_checkpoint", weights_only=True)
        with torch.no_grad():
            for name, weight in model.chunks[0].named_parameters():
                if "output_layer" in name:
                    weight.fill_(0.1)  # a new head is 0
        found.append(MegatronScorer(model).score([[2, 3, 4, 5], [6, 7, 8]]))
    gaps = [abs(a - b) for a, b in zip(*found, strict=True)]
    return {"gap": max(gaps), "spread": abs(found[0][0] - found[0][1])}
