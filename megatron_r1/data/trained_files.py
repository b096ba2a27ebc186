"""The files that an export carries beside trained weights: how the model was trained, not how it came.

A model trained in one template and served in another answers a fraction of what it can, and no number shows
it. So the tokenizer's files are those that the run reads, with the chat template, BOS and EOS of the run, and
generation_config.json lists every id that ended an output.
"""

import json
from collections.abc import Mapping
from typing import Any

from megatron_r1.data.chat_template import ChatTemplate
from megatron_r1.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.data.tokenizers.tokenizer_files import CONFIG, GENERATION, LEGACY, SETTINGS, TOKENIZER
from megatron_r1.errors import DataError
from megatron_r1.files.json_reader import parse_json
from megatron_r1.files.regular_file import read_bytes

TEMPLATES = ("chat_template.jinja", "chat_template.json")  # they go before what tokenizer_config.json says
VOCABULARIES = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")
FILES = (TOKENIZER, SETTINGS, LEGACY, *VOCABULARIES)


def trained_files(
    carried: Mapping[str, bytes], tokenizer: Tokenizer, template: ChatTemplate
) -> dict[str, bytes]:
    """carried: by name, what came with the weights. Returns what is to be kept with them from now on.

    A sentencepiece model of a run is no file of Hugging Face: then the template that came goes, as it is not
    the one that was trained, and the rest stays.
    """
    kept = {name: content for name, content in carried.items() if name not in TEMPLATES}
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        settings = _object(kept, SETTINGS)
        if settings.pop("chat_template", None) is not None:
            kept[SETTINGS] = _bytes(settings)
        return kept
    kept = {name: content for name, content in kept.items() if name not in FILES}
    kept |= _files_of(tokenizer)
    _name_pieces(kept, tokenizer, template)
    _name_ends(kept, tokenizer)
    return kept


def _files_of(tokenizer: HuggingFaceTokenizer) -> dict[str, bytes]:
    folder = tokenizer.path.parent
    found = {name: folder / name for name in FILES if (folder / name).is_file()}
    return {
        name: read_bytes(path, error=DataError)
        for name, path in (found | {TOKENIZER: tokenizer.path}).items()
    }


def _name_pieces(kept: dict[str, bytes], tokenizer: HuggingFaceTokenizer, template: ChatTemplate) -> None:
    """The template, BOS and EOS, in the files that transformers reads them from."""
    bos_id = template.bos_id(tokenizer)
    bos, eos = None if bos_id is None else tokenizer.piece(bos_id), tokenizer.piece(tokenizer.eos_id)
    settings = _object(kept, SETTINGS) or {"tokenizer_class": "PreTrainedTokenizerFast"}
    named = _named(settings, bos, eos)
    kept[SETTINGS] = _bytes({**named, "chat_template": template.jinja(bos=bos, eos=eos)})
    legacy = _object(kept, LEGACY)
    if legacy and legacy != _named(legacy, bos, eos):
        kept[LEGACY] = _bytes(_named(legacy, bos, eos))


def _named(settings: Mapping[str, Any], bos: str | None, eos: str) -> dict[str, Any]:
    changed = {}
    for key, piece in (("bos_token", bos), ("eos_token", eos)):
        there = settings.get(key)
        spelt = there.get("content") if isinstance(there, dict) else there
        if piece is not None and spelt != piece:
            changed[key] = piece
    return {**settings, **changed}


def _name_ends(kept: dict[str, bytes], tokenizer: HuggingFaceTokenizer) -> None:
    """What stops an output, where transformers and vLLM look for it."""
    ends = list(tokenizer.eos_ids)
    generation, config = _object(kept, GENERATION), _object(kept, CONFIG)
    listed = _listed(generation if GENERATION in kept else config)
    if listed != set(ends):
        kept[GENERATION] = _bytes({**generation, "eos_token_id": ends if len(ends) > 1 else ends[0]})
    if not _listed(config) <= set(ends):  # older readers look there
        kept[CONFIG] = _bytes({**config, "eos_token_id": ends if len(ends) > 1 else ends[0]})


def _listed(settings: Mapping[str, Any]) -> set[int]:
    value = settings.get("eos_token_id")
    return set() if value is None else set(value if isinstance(value, list) else [value])


def _object(kept: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Empty where there is no such file."""
    return parse_json(kept[name]) if name in kept else {}


def _bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
