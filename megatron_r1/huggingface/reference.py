"""What transformers says of a model: the logits, and the states between the layers, to hold ours against.

transformers is no dependency of the package; `verify` alone asks for it.
"""

# S tokens, V vocabulary, h hidden

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_r1.errors import CheckpointError
from megatron_r1.huggingface.config_file import CONFIG, carry
from megatron_r1.huggingface.safetensors_file import Planned, bytes_of, header_of
from megatron_r1.huggingface.source import SCALE, Source

EMBEDDING, LOGITS = "embedding", "logits"


def layer_name(index: int) -> str:
    """Layers count from 0."""
    return f"layer {index}"


def reference_states(directory: Path, prompts: Sequence[Sequence[int]]) -> list[dict[str, Tensor]]:
    """Of each prompt, in fp32: logits [S, V], and the states after the embedding and each layer [S, h]."""
    with _loaded(directory) as model, torch.no_grad():
        return [_states(model, prompt) for prompt in prompts]


def _states(model: Any, prompt: Sequence[int]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in _modules(model):
            stack.callback(module.register_forward_hook(_keep(found, name)).remove)
        found[LOGITS] = model(torch.tensor([list(prompt)]), use_cache=False).logits[0]
    return found


def _modules(model: Any) -> Iterator[tuple[str, Any]]:
    yield EMBEDDING, model.model.embed_tokens
    for i, layer in enumerate(model.model.layers):
        yield layer_name(i), layer


def _keep(found: dict[str, Tensor], name: str) -> Callable[[Any, Any, Any], None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        found[name] = (output[0] if isinstance(output, tuple) else output)[0].detach().clone()

    return hook


@contextmanager
def _loaded(directory: Path) -> Iterator[Any]:
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError("verify needs transformers to compare with: pip install transformers")
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = Source(directory)
    with ExitStack() as stack:
        if any(source.in_blocks(name) for name in source.names):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="megatron-r1-verify-")))
            directory = _without_blocks(source, folder)
        model = AutoModelForCausalLM.from_pretrained(
            directory, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False
        )
        yield model.eval()


def _without_blocks(source: Source, folder: Path) -> Path:
    """The model with its FP8 blocks dequantised: transformers gets cut blocks wrong on a CPU."""
    carry(source.directory, folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    names = sorted(name for name in source.names if not name.endswith(SCALE))
    planned = [Planned(name, torch.float32, source.entry(name).shape) for name in names]
    _require_space(folder, sum(tensor.num_bytes for tensor in planned))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header_of(planned))
        for name in names:
            file.write(bytes_of(source.read(name, torch.float32)))
    return folder


def _require_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise CheckpointError(
            f"{folder}: the dequantised model needs {num_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "set TMPDIR to a larger disk"
        )
