"""transformers' logits and hidden states of a model, as the reference for `verify`.

transformers is no dependency of the package; only `verify` needs it.
"""

# S tokens, V vocabulary, h hidden

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_r1.errors import CheckpointError, R1Error
from megatron_r1.huggingface.config_file import CONFIG, INDEX
from megatron_r1.huggingface.safetensors_file import Planned, bytes_of, header_of
from megatron_r1.huggingface.source import SCALE, Source

EMBEDDING, LOGITS = "embedding", "logits"
# config keys for which transformers would run other code: for quantised weights, or from the directory itself
OTHERS_CODE = ("quantization_config", "auto_map")
LONGEST_ERROR = 300  # characters of transformers' message in ours


def layer_name(index: int) -> str:
    """Layers count from 0."""
    return f"layer {index}"


def reference_states(
    directory: Path,
    prompts: Sequence[Sequence[int]],
    *,
    model_type: str,
    like: Callable[[str], torch.dtype],
) -> list[dict[str, Tensor]]:
    """For each prompt, in fp32: logits [S, V], and the states after the embedding and each layer [S, h].

    model_type: transformers' name of the architecture; a config.json may have its own type with remote code
    (Kimi K2). like: the checkpoint's dtype of a tensor, by its Hugging Face name.
    """
    with _loaded(Source(directory), model_type, like) as model, torch.no_grad():
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
def _loaded(source: Source, model_type: str, like: Callable[[str], torch.dtype]) -> Iterator[Any]:
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError("verify needs transformers to compare with: pip install transformers")
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="megatron-r1-verify-") as folder, _in_words(source.directory):
        _write_view(source, Path(folder), model_type, like)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            attn_implementation="eager",
            experts_implementation="eager",  # its grouped products need widths divisible by 4
            dtype=torch.float32,
            trust_remote_code=False,
        )
        yield model.eval()


@contextmanager
def _in_words(directory: Path) -> Iterator[None]:
    """Turns an error inside transformers, of whatever type, into a CheckpointError."""
    try:
        yield
    except R1Error:
        raise
    except (
        Exception
    ) as error:  # transformers raises KeyError, ValueError, RuntimeError, ImportError and others
        text = " ".join(str(error).split())[:LONGEST_ERROR] or "without a word"
        raise CheckpointError(
            f"{directory}: transformers {version('transformers')} can't compute this model, so there is "
            f"nothing to compare with: {type(error).__name__}: {text}"
        ) from error


def _write_view(source: Source, folder: Path, model_type: str, like: Callable[[str], torch.dtype]) -> None:
    """Write the model as an import reads it: shards and an index, which every version of transformers reads.

    A file is only linked if an import doesn't round its tensors. One with FP8 blocks, or with wider dtypes
    than the checkpoint's, is written with the rounded values: rounding is no error of a conversion, and
    transformers gets partial FP8 blocks wrong on a CPU.
    """
    config = {key: value for key, value in source.config.items() if key not in OTHERS_CODE}
    config["model_type"] = model_type
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    shards = [_Shard(f"model-{i + 1:05d}.safetensors", file, source, like)
              for i, file in enumerate(source.files)]  # fmt: skip
    _require_space(folder, sum(shard.num_bytes for shard in shards))
    weight_map: dict[str, str] = {}
    for shard in shards:
        shard.write(folder)
        weight_map |= dict.fromkeys(shard.names, shard.name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")


class _Shard:
    """One file of this copy: its tensors, and whether it has to be written."""

    def __init__(self, name: str, file: Path, source: Source, like: Callable[[str], torch.dtype]) -> None:
        self.name, self.file, self.source, self.like = name, file, source, like
        self.names = sorted(n for n in source.names_in(file) if not n.endswith(SCALE))
        self.rounds = any(source.in_blocks(n) or self._narrows(n) for n in self.names)

    def _narrows(self, name: str) -> bool:
        there = self.source.dtype(name)
        return there.is_floating_point and torch.promote_types(there, self.like(name)) != self.like(name)

    @property
    def planned(self) -> list[Planned]:
        return [Planned(n, self._dtype(n), self.source.entry(n).shape) for n in self.names]

    def _dtype(self, name: str) -> torch.dtype:
        return self.like(name) if self.source.dtype(name).is_floating_point else self.source.dtype(name)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.planned) if self.rounds else 0

    def write(self, folder: Path) -> None:
        if not self.rounds:
            (folder / self.name).symlink_to(self.file.absolute())
            return
        with (folder / self.name).open("wb") as file:
            file.write(header_of(self.planned))
            for tensor in self.planned:
                file.write(bytes_of(self.source.read(tensor.name, tensor.dtype)))


def _require_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise CheckpointError(
            f"{folder}: the dequantised model needs {num_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "set TMPDIR to a larger disk"
        )
