"""Loss and gradient of a reward model next to TRL's RewardTrainer, on one Qwen2 with the same weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.twins import renamed
from megatron_r1.config.layout import Layout
from megatron_r1.types import OptimizerOptions
from tests.distributed.scenarios import models, scores

FAMILY = models.FAMILIES["qwen2"]
SHAPE = {"num_layers": 4, "hidden_size": 64, "heads": 4, "groups": 2, "ffn": 128}
NO_CLIP = 1e9


def beside_trl(layout: Layout, shared: Path) -> dict[str, Any]:
    """Both losses on four pairs, and each gradient's largest difference over its largest value."""
    own = scores.scorer("qwen2", layout, seed=4)
    weights = {
        name: value.clone() for name, value in own.model.chunks[0].state_dict().items() if value is not None
    }
    own.model.start_training(OptimizerOptions(clip_grad=NO_CLIP))
    stats = own.train_step(scores.pairs(0), scores.bradley_terry, lr=0.0)
    ours = {name: p.main_grad for name, p in own.model.chunks[0].named_parameters()}  # type: ignore[attr-defined]
    loss, theirs = _of_trl(weights, shared)
    ours = _as_theirs(ours)
    assert ours.keys() == theirs.keys()
    gaps = {n: float((ours[n] - theirs[n]).abs().max() / theirs[n].abs().max()) for n in theirs}
    return {"ours": stats.loss, "theirs": loss, "gaps": gaps, "norm": stats.grad_norm,
            "their_norm": float(torch.stack([g.norm() for g in theirs.values()]).norm())}  # fmt: skip


def _as_theirs(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under transformers' names; the head is `score` there."""
    found = renamed(ours, SHAPE)
    return {name.replace("lm_head", "score"): value for name, value in found.items()}


def _of_trl(weights: dict[str, Tensor], shared: Path) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of RewardTrainer.compute_loss."""
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    config = Qwen2Config(
        vocab_size=models.VOCABULARY, hidden_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=128, max_position_embeddings=FAMILY.max_position_embeddings,
        rope_theta=FAMILY.rope_theta, rms_norm_eps=1e-6, pad_token_id=0, eos_token_id=1, num_labels=1,
        bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    twin = Qwen2ForSequenceClassification(config)
    twin.load_state_dict(_as_theirs(weights))
    given = scores.pairs(0)
    data = Dataset.from_list(
        [{"chosen_ids": a, "rejected_ids": b} for a, b in zip(given[0::2], given[1::2], strict=True)]
    )
    trainer = RewardTrainer(
        model=twin,
        args=RewardConfig(output_dir=str(shared / "trl"), use_cpu=True, report_to=[], bf16=False),
        train_dataset=data,
        processing_class=_tokenizer(),
    )
    batch = trainer.data_collator([data[i] for i in range(len(data))])
    loss = trainer.compute_loss(twin.train(), batch)
    loss.backward()
    return float(loss), {name: p.grad for name, p in twin.named_parameters()}


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, models.VOCABULARY)}}
    core = Tokenizer(WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
