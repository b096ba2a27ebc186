"""Conversions that are wrong on purpose, one trap each; `verify` must see every one of them."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from megatron_r1.backend.checkpoint.files import MANIFEST, read_manifest
from megatron_r1.backend.hf import import_checkpoint
from megatron_r1.backend.hf.verify import verify
from megatron_r1.config.layout import Layout
from megatron_r1.huggingface.weight_mapping import to_megatron
from megatron_r1.models.hf_config import HfConfig
from megatron_r1.models.weights import GateUp, Qkv, Segment
from tests.distributed.harness import hf_models
from tests.distributed.scenarios.hf import HF, no_progress


@dataclass(frozen=True)
class Trap:
    """model: of hf_models. fields: of the family, changed in the checkpoint. config: of config.json, whose
    refusal is switched off. wrong: what is done to weights whose name ends so."""

    model: str
    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    wrong: tuple[str, Callable[[Tensor], Tensor]] | None = None
    patched: tuple[type, Callable[..., list[Segment]]] | None = None


def up_gate(self: GateUp, rows: int) -> list[Segment]:
    half = rows // 2
    return [Segment(1, 0, 0, half), Segment(0, 0, half, half)]


def q_v_k(self: Qkv, rows: int) -> list[Segment]:
    right = _segments(self, rows)
    return [replace(segment, part=(0, 2, 1)[segment.part]) for segment in right]


_segments = Qkv.segments
YARN = {"factor": 40.0, "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0}
RULE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FACTOR_40 = {"rotary_scaling_factor": 40.0, "mscale_all_dim": 1.0}
FAR = {**RULE, "original_max_position_embeddings": 8192}
TRAPS = {
    "none": Trap("v3_mtp"),
    "none_dense": Trap("llama_8"),
    "gate_and_up_swapped": Trap("qwen2", patched=(GateUp, up_gate)),
    "k_and_v_swapped": Trap("qwen2_tied", patched=(Qkv, q_v_k)),
    "biases_lost": Trap("qwen2", wrong=("linear_qkv.bias", lambda t: t * 0)),
    "query_norm_lost": Trap("qwen3", wrong=("q_layernorm.weight", lambda t: t * 0 + 1)),
    "latent_norm_lost": Trap("v3_mtp", wrong=("kv_layernorm.weight", lambda t: t * 0 + 1)),
    "expert_bias_lost": Trap("v3_mtp", wrong=("expert_bias", lambda t: t * 0)),
    "scaling_factor": Trap("v3_mtp", {"router_scaling_factor": 1.0}),
    "mscale": Trap("v3_mtp", {"yarn": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.0}}),
    "yarn_lost": Trap("v3_mtp", {"yarn": None}),
    "softmax_scale_without_yarn": Trap("v3_lite", {"megatron": FACTOR_40}),
    "pairs_taken_for_halves": Trap("v3_mtp", config={"rope_interleave": False}),
    "halves_taken_for_pairs": Trap("v3_halves", config={"rope_interleave": True}),
    "not_normalised": Trap("v3_mtp", config={"norm_topk_prob": False}),
    "group_rule": Trap("v3_mtp", config={"num_experts_per_tok": 2, "topk_group": 2}),
    "single_expert": Trap("v3_lite", config={"num_experts_per_tok": 1}),
    "llama_rule_original": Trap("llama_8", {"rope_scaling": FAR}),
    "theta": Trap("llama", {"rope_theta": 1e4}),
    "top_k": Trap("qwen3_moe", {"normalize_expert_weights": False}),
}  # fmt: skip
# the trap lies between what the files are and what config.json is made to say
READ_AS_CHANGED = ("pairs_taken_for_halves", "halves_taken_for_pairs")


def run(layout: Layout, shared: Path) -> dict[str, Any]:
    """What `verify` says of each: relative difference of the logits, agreement, the first place."""
    return {name: _verified(name, trap, shared) for name, trap in TRAPS.items()}


def _verified(name: str, trap: Trap, shared: Path) -> dict[str, Any]:
    directory, checkpoint = shared / f"trap_{name}_hf", shared / f"trap_{name}"
    shutil.copytree(shared / HF / trap.model, directory)
    original = (directory / "config.json").read_text()
    (directory / "config.json").write_text(json.dumps({**json.loads(original), **trap.config}))
    with _broken(trap):
        import_checkpoint.import_model(directory, checkpoint, precision=None, progress=no_progress)
    if name in READ_AS_CHANGED:
        (directory / "config.json").write_text(original)
    if trap.fields:
        manifest = read_manifest(checkpoint)
        changed = replace(manifest, model={**manifest.model, **trap.fields})
        (checkpoint / MANIFEST).write_text(changed.text())
    found = verify(directory, checkpoint, hf_models.prompts(96), layout=Layout())
    assert found is not None
    first = found.first_different
    return {
        "relative": found.logits.relative,
        "agreement": found.argmax_agreement,
        "first": None if first is None else first.place,
        "text": found.text(),
    }


@contextmanager
def _broken(trap: Trap) -> Iterator[None]:
    with patch.object(HfConfig, "refuse", lambda self, text: None):
        if trap.patched is not None:
            cls, segments = trap.patched
            with patch.object(cls, "segments", segments):
                yield
        elif trap.wrong is not None:
            ending, change = trap.wrong
            with patch.object(import_checkpoint, "to_megatron", _changing(ending, change)):
                yield
        else:
            yield


def _changing(ending: str, change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def read(reader: Any, weight: Any, dtype: Any, **where: Any) -> Tensor:
        value = to_megatron(reader, weight, dtype, **where)
        return change(value) if weight.megatron.endswith(ending) else value

    return read
