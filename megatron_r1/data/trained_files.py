"""Tokenizer and template files of an exported model, as it was trained rather than as it was imported.

A model that is served with another template than it was trained with answers far worse, without any error. So
an export has the run's tokenizer files, with the run's chat template, BOS and EOS, and its
generation_config.json lists every id that ended a completion.
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

TEMPLATES = ("chat_template.jinja", "chat_template.json")  # they take precedence over tokenizer_config.json
VOCABULARIES = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")
FILES = (TOKENIZER, SETTINGS, LEGACY, *VOCABULARIES)


def trained_files(
    carried: Mapping[str, bytes], tokenizer: Tokenizer, template: ChatTemplate
) -> dict[str, bytes]:
    """The files to export, by name. carried: the files that were imported with the weights.

    A run with a sentencepiece model has no Hugging Face files of its own: then only the imported template is
    removed, as it is not the trained one.
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
    """Write the template, BOS and EOS into the files from which transformers reads them."""
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
    """Write the ids that end a completion where transformers and vLLM look for them."""
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
    """The JSON object of a file; empty if there is no such file."""
    return parse_json(kept[name]) if name in kept else {}


def _bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
