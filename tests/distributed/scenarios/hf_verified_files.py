"""Directories that are right and that transformers alone can't read, or reads with other numbers."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor

from megatron_r1.backend.hf import import_checkpoint
from megatron_r1.backend.hf.export_checkpoint import ExportOptions, export_model
from megatron_r1.backend.hf.verify import verify
from megatron_r1.config.layout import Layout
from megatron_r1.errors import CheckpointError
from megatron_r1.huggingface import fp8
from tests.distributed.harness import hf_models
from tests.distributed.scenarios.hf import no_progress, policy_of
from tests.huggingface import made_model

QUANTIZATION = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


def values(dtype: torch.dtype) -> dict[str, Tensor]:
    found = made_model.tensors(made_model.V3, dtype=dtype)
    return {name: value * 0.05 if value.dim() > 1 else value for name, value in found.items()}


def blocks(directory: Path, **config: Any) -> Path:
    """FP8 blocks whose scales are no powers of two, as every released model's before V3.1."""
    torch.manual_seed(0)
    found = values(torch.bfloat16)
    rows = {name: weight.row for weight in made_model.V3.weights() for name in weight.hf}
    for name in [name for name, row in rows.items() if row.blocks]:
        codes, scales = fp8.quantize(found[name])
        found |= {name: codes, f"{name}_scale_inv": scales * (1 + torch.rand_like(scales))}
    named = {"quantization_config": QUANTIZATION, **config}
    return made_model.write(directory, made_model.V3, values=found, **named)


def still_says_fp8(directory: Path) -> Path:
    return made_model.write(
        directory, made_model.V3, values=values(torch.bfloat16), quantization_config=QUANTIZATION
    )


def without_index(directory: Path) -> Path:
    made_model.write(directory, shards=3)
    (directory / "model.safetensors.index.json").unlink()
    return directory


def of_another_name(directory: Path) -> Path:
    made_model.write(directory)
    (directory / "model.safetensors").rename(directory / "qwen.safetensors")
    return directory


def of_another_type(directory: Path) -> Path:
    """As Kimi K2: V3's architecture under a name of its own, with code that is never run."""
    code = {"AutoConfig": "configuration_kimi.KimiConfig"}
    return made_model.write(
        directory, made_model.V3, values=values(torch.bfloat16), model_type="kimi_k2", auto_map=code
    )


def in_fp16(directory: Path) -> Path:
    return made_model.write(directory, values=made_model.tensors(made_model.QWEN, dtype=torch.float16))


# name -> what writes it, and the number format that the checkpoint is asked to have
RIGHT: dict[str, tuple[Callable[[Path], Path], Any]] = {
    "blocks": (blocks, None),
    "blocks_in_fp32": (blocks, "fp32"),
    "bf16_that_says_fp8": (still_says_fp8, None),
    "no_index": (without_index, None),
    "another_name": (of_another_name, None),
    "another_type": (of_another_type, None),
    "fp32_rounded": (made_model.write, "bf16"),
    "fp16_rounded": (in_fp16, "bf16"),
}


def run(layout: Layout, shared: Path) -> dict[str, Any]:
    found: dict[str, Any] = {name: _first(name, *RIGHT[name], shared) for name in RIGHT}
    found["scales_lost"] = _first("scales_lost", blocks, None, shared, scales=torch.ones_like)
    found["scales_by_one_percent"] = _first(
        "by_one_percent", blocks, None, shared, scales=lambda scales: scales * 1.01
    )
    found["refused"] = _refused(shared)
    found["trained"] = {str(name): _trained(name, shared) for name in ("ue8m0", None)}
    return found


def _first(
    name: str,
    make: Callable[[Path], Path],
    dtype: Any,
    shared: Path,
    *,
    scales: Callable[[Tensor], Tensor] | None = None,
) -> str | None:
    """The first place that differs. scales: what a wrong import makes of them."""
    directory, checkpoint = make(shared / f"files_{name}_hf"), shared / f"files_{name}"
    right = fp8.dequantize
    with (
        nullcontext()
        if scales is None
        else patch.object(
            fp8,
            "dequantize",
            lambda codes, found, *rest, **where: right(codes, scales(found), *rest, **where),
        )
    ):
        import_checkpoint.import_model(directory, checkpoint, precision=dtype, progress=no_progress)
    compared = verify(directory, checkpoint, hf_models.prompts(32), layout=Layout())
    assert compared is not None
    return None if compared.first_different is None else compared.first_different.place


def _trained(scale_fmt: str | None, shared: Path) -> dict[str, Any]:
    """What an export to FP8 holds after every weight has moved: its words, and whether all scales are 2^k."""
    named = {**QUANTIZATION, **({} if scale_fmt is None else {"scale_fmt": scale_fmt})}
    source = blocks(shared / f"files_{scale_fmt}_hf", quantization_config=named)
    policy = policy_of(made_model.V3, Layout())
    policy.load_hugging_face(source)
    with torch.no_grad():
        for chunk in policy.chunks:
            for parameter in chunk.parameters():
                parameter *= 1.01
    policy.save(shared / f"files_{scale_fmt}", {})
    out = shared / f"files_{scale_fmt}_out"
    export_model(shared / f"files_{scale_fmt}", out, ExportOptions(blocks=True), progress=no_progress)
    tensors = load_file(out / "model.safetensors")
    scales = torch.cat([t.flatten() for name, t in tensors.items() if name.endswith("_scale_inv")])
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    return {
        "says": config,
        "powers": bool((scales.log2() == scales.log2().round()).all()),
        "count": len(scales),
    }


def _refused(shared: Path) -> str:
    """What transformers stumbles over, and we don't."""
    directory = made_model.write(shared / "files_refused_hf")
    import_checkpoint.import_model(directory, shared / "files_refused", precision=None, progress=no_progress)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "attention_dropout": "none"}))
    try:
        verify(directory, shared / "files_refused", hf_models.prompts(32), layout=Layout())
    except CheckpointError as error:
        return str(error)
    raise AssertionError("transformers took a text for a number")
