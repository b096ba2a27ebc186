"""Conversions that stop halfway, number formats, and FP8 blocks: what lies on the disk afterwards."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from megatron_r1.backend.checkpoint.files import read_manifest
from megatron_r1.backend.hf import import_checkpoint
from megatron_r1.backend.hf.export_checkpoint import ExportOptions, export_model, family_in
from megatron_r1.backend.hf.import_checkpoint import import_model
from megatron_r1.config.layout import Layout
from megatron_r1.errors import CheckpointError
from megatron_r1.huggingface import fp8
from megatron_r1.huggingface.resumable_writer import HashedFile
from megatron_r1.huggingface.source import Source
from megatron_r1.models.deepseek_v3 import DeepseekV3
from tests.distributed.scenarios.hf import no_progress, policy_of
from tests.huggingface import made_model

SMALL = 40_000  # bytes of a part: many of them in a tiny model


def interrupted(layout: Layout, shared: Path) -> dict[str, Any]:
    """A full disk in the middle of an import and of an export; then the same again."""
    source = made_model.write(shared / "interrupted_hf", made_model.V3, shards=3)
    checkpoint, out = shared / "interrupted", shared / "interrupted_out"
    options = ExportOptions(shard_bytes=2 * SMALL)
    with patch.object(import_checkpoint, "PART_BYTES", SMALL):
        imported = _twice(
            checkpoint,
            lambda: import_model(source, checkpoint, precision=None, progress=no_progress),
            at=1500,
        )
    exported = _twice(
        out,
        lambda: export_model(checkpoint, out, options, progress=no_progress),
        at=30,
    )
    size = sum(path.stat().st_size for path in checkpoint.glob("*.distcp"))
    return {"import": imported, "export": exported, "overhead": size - Source(source).num_bytes}


def _twice(target: Path, convert: Callable[[], Any], *, at: int) -> dict[str, Any]:
    """at: which write finds the disk full."""
    right, calls = HashedFile.write, 0

    def fails(self: HashedFile, data: bytes | memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return right(self, data)

    with patch.object(HashedFile, "write", fails):
        message = _refusal(convert)
    partial = target.with_name(target.name + ".tmp")
    found = {"message": message, "exists": target.exists()}
    kept = {p.name.removesuffix(".done"): _identity(p.with_suffix("")) for p in partial.glob("*.done")}
    convert()
    again = [name for name, identity in kept.items() if _identity(target / name) == identity]
    left = [path.name for path in target.iterdir() if path.suffix in (".done", ".part")]
    return {**found, "kept": len(kept), "again": len(again), "left": left, "partial": partial.exists()}


def _identity(path: Path) -> list[int]:
    return [path.stat().st_ino, path.stat().st_mtime_ns]


def _refusal(convert: Callable[[], Any]) -> str:
    try:
        convert()
    except CheckpointError as error:
        return str(error)
    return "nothing was raised"


def refused(layout: Layout, shared: Path) -> dict[str, Any]:
    """Targets that exist, disks that are too small, and a checkpoint that is damaged."""
    source = made_model.write(shared / "refused_hf", made_model.QWEN)
    taken = shared / "taken"
    taken.mkdir()
    checkpoint = shared / "refused"
    found = {"taken": _refusal(lambda: import_model(source, taken, precision=None, progress=no_progress))}
    with patch("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})):
        found["disk"] = _refusal(
            lambda: import_model(source, checkpoint, precision=None, progress=no_progress)
        )
    found["written"] = sorted(path.name for path in shared.glob("refused*"))
    import_model(source, checkpoint, precision=None, progress=no_progress)
    (part,) = checkpoint.glob("*.distcp")
    part.write_bytes(part.read_bytes()[:-100])
    out = shared / "refused_out"
    found["damaged"] = _refusal(lambda: export_model(checkpoint, out, ExportOptions(), progress=no_progress))
    found["out"] = sorted(path.name for path in shared.glob("refused_out*"))
    return found


def not_finite(layout: Layout, shared: Path) -> dict[str, Any]:
    values = made_model.tensors(made_model.QWEN)
    values["model.layers.1.mlp.down_proj.weight"][3, 4] = float("nan")
    values["model.layers.0.self_attn.k_proj.bias"][0] = float("inf")
    source = made_model.write(shared / "nan_hf", made_model.QWEN, values=values)
    policy = policy_of(made_model.QWEN, layout)
    return {
        "import": import_model(source, shared / "nan", precision=None, progress=no_progress),
        "load": policy.load_hugging_face(source),
    }


def blocks(layout: Layout, shared: Path) -> dict[str, Any]:
    """FP8 blocks in, FP8 blocks out; scales that are not what quantising would choose, cut blocks, MTP."""
    source = write_blocks(shared / "blocks_hf")
    checkpoint, out = shared / "blocks", shared / "blocks_out"
    import_model(source, checkpoint, precision=None, progress=no_progress)
    export_model(checkpoint, out, ExportOptions(blocks=True), progress=no_progress)
    export_model(checkpoint, shared / "blocks_bf16", ExportOptions(), progress=no_progress)
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    differing = [n for n in before if n not in after or not _same(before[n], after[n])]
    policy = policy_of(family_in(read_manifest(checkpoint)), layout)
    policy.load_hugging_face(source)
    return {
        "extra": sorted(after.keys() - before.keys()),
        "differing": differing,
        "num_blocks": sum(name.endswith("_scale_inv") for name in before),
        "precision": read_manifest(checkpoint).precision,
        "config": json.loads((out / "config.json").read_text())["quantization_config"],
        "plain": sorted({str(t.dtype) for t in load_file(shared / "blocks_bf16/model.safetensors").values()}),
        "plain_config": "quantization_config" in (shared / "blocks_bf16" / "config.json").read_text(),
    }


# transformers dequantises blocks that are cut at the edge wrongly on a CPU: here all are whole
ALIGNED = DeepseekV3(
    family="deepseek_v3",
    vocab_size=64,
    num_layers=2,
    hidden_size=128,
    num_attention_heads=2,
    q_lora_rank=128,
    kv_lora_rank=64,
    qk_head_dim=64,
    qk_pos_emb_head_dim=64,
    v_head_dim=64,
    ffn_hidden_size=256,
    num_experts=4,
    experts_per_token=2,
    moe_ffn_hidden_size=128,
)


def blocks_in_transformers(layout: Layout, shared: Path) -> dict[str, Any]:
    """An FP8 export as transformers reads it, next to our own import of it as transformers reads that."""
    from transformers import FineGrainedFP8Config

    values = made_model.tensors(ALIGNED, dtype=torch.bfloat16)
    values = {name: value * 0.05 if value.dim() > 1 else value for name, value in values.items()}
    source = made_model.write(shared / "aligned_hf", ALIGNED, values=values)
    out = {name: shared / f"aligned_{name}" for name in ("ours", "fp8", "again", "plain")}
    import_model(source, out["ours"], precision=None, progress=no_progress)
    export_model(out["ours"], out["fp8"], ExportOptions(blocks=True), progress=no_progress)
    import_model(out["fp8"], out["again"], precision=None, progress=no_progress)
    export_model(out["again"], out["plain"], ExportOptions(), progress=no_progress)
    theirs = _logits(out["fp8"], quantization_config=FineGrainedFP8Config(dequantize=True))
    ours, exact = _logits(out["plain"]), _logits(source)
    return {
        "size": float(exact.abs().max()),
        "ours_to_theirs": float((ours - theirs).abs().max()),
        "ours_to_exact": float((ours - exact).abs().max()),
    }


@torch.no_grad()
def _logits(directory: Path, **options: Any) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", **options).float()
    return model(torch.arange(2, 22)[None]).logits[0]


def write_blocks(directory: Path) -> Path:
    """A model as DeepSeek-V3 is released: bf16, its linears in FP8 blocks, the routers' bias fp32."""
    values = made_model.tensors(made_model.V3, dtype=torch.bfloat16)
    rows = {name: weight.row for weight in made_model.V3.weights() for name in weight.hf}
    for name in [name for name, row in rows.items() if row.blocks]:
        codes, scales = fp8.quantize(values[name])
        values |= {name: codes, f"{name}_scale_inv": scales * (1 + torch.rand_like(scales))}
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    return made_model.write(directory, made_model.V3, values=values, quantization_config=quantization)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    bits = [x.contiguous().view(-1).view(torch.uint8) for x in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def formats(layout: Layout, shared: Path) -> dict[str, Any]:
    """bf16, fp16 and mixed files come back as they were; another format can be asked for."""
    found = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        values = made_model.tensors(made_model.QWEN, dtype=dtype)
        if name == "bf16":  # some released models keep norms in fp32; these lose nothing in bf16
            norm = "model.layers.0.input_layernorm.weight"
            values[norm] = values[norm].float()
        source = made_model.write(shared / f"format_{name}_hf", values=values)
        checkpoint, out = shared / f"format_{name}", shared / f"format_{name}_out"
        import_model(source, checkpoint, precision=None, progress=no_progress)
        export_model(checkpoint, out, ExportOptions(), progress=no_progress)
        after = load_file(out / "model.safetensors")
        found[name] = {
            "precision": read_manifest(checkpoint).precision,
            "differing": [n for n in values if not _same(values[n], after[n])],
        }
    out = shared / "format_asked"
    export_model(shared / "format_bf16", out, ExportOptions(dtype=torch.float32), progress=no_progress)
    found["asked"] = sorted({str(t.dtype) for t in load_file(out / "model.safetensors").values()})
    found["asked_config"] = json.loads((out / "config.json").read_text())["torch_dtype"]
    return found
