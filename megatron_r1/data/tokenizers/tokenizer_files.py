"""Reads the files beside a tokenizer.json: named pieces, added tokens, and the ids that end a completion.

They are read as transformers 5 reads them (tokenization_utils_base.py, _from_pretrained).
special_tokens_map.json is used, and then takes precedence, only if tokenizer_config.json has no
added_tokens_decoder. generation_config.json lists the ids that end a completion; config.json does if it is
missing. `add_bos_token` is ignored: transformers 5 ignores it beside a tokenizer.json, whose post-processor
decides.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_r1.errors import DataError
from megatron_r1.files.json_reader import read_json_object

ROLES = ("bos", "eos", "pad")
TOKENIZER, SETTINGS, LEGACY = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
GENERATION, CONFIG = "generation_config.json", "config.json"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # an added token's


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """named: the piece of each role. added: (id, content, flags) of tokenizer_config.json's added tokens.

    stop_ids: the ids that end a completion, in the file's order.
    """

    named: Mapping[str, str | None]
    added: list[tuple[int, str, dict[str, bool]]]
    stop_ids: tuple[int, ...]


def read_files(folder: Path) -> TokenizerFiles:
    """Read the files of a folder. Raises DataError with the file and the key if one of them is damaged."""
    path = folder / SETTINGS
    settings = read_json(path) if _is_there(path) else {}
    if "added_tokens_decoder" not in settings and _is_there(folder / LEGACY):
        settings = {**settings, **read_json(folder / LEGACY)}
    named = {role: _piece(settings.get(f"{role}_token"), f"{path}: {role}_token") for role in ROLES}
    return TokenizerFiles(named, _added(settings.get("added_tokens_decoder"), path), _stop_ids(folder))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a regular file; DataError for anything else."""
    return read_json_object(path, error=DataError, remedy="fetch it again")


def _is_there(path: Path) -> bool:
    """True for a broken link too: reading it raises the right error."""
    return path.exists() or path.is_symlink()


def _piece(value: Any, where: str) -> str | None:
    """The piece: `value` itself if it is a string, or its `content`."""
    piece = value.get("content") if isinstance(value, dict) else value
    if piece is not None and not isinstance(piece, str):
        raise DataError(f"{where}: {json.dumps(value)[:80]} names no piece; write it as a string")
    return piece


def _added(value: Any, path: Path) -> list[tuple[int, str, dict[str, bool]]]:
    where = f"{path}: added_tokens_decoder"
    if value is None:
        return []
    if not isinstance(value, dict) or not all(key.isdecimal() for key in value):
        raise DataError(f"{where} is no mapping of token ids to tokens; fetch the file again")
    found = []
    for key, entry in value.items():
        content = _piece(entry, f"{where}, {key}")
        if not content:
            raise DataError(f"{where}: {key} has no content; fetch the file again")
        flags = {name: bool(entry[name]) for name in FLAGS if isinstance(entry, dict) and name in entry}
        found.append((int(key), content, flags))
    return sorted(found, key=lambda one: one[0])


def _stop_ids(folder: Path) -> tuple[int, ...]:
    for name in (GENERATION, CONFIG):
        path = folder / name
        if _is_there(path):
            value = read_json(path).get("eos_token_id")
            if value is not None:
                return _ids(value, f"{path}: eos_token_id")
    return ()


def _ids(value: Any, where: str) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [value]
    if not all(type(one) is int and one >= 0 for one in ids):
        raise DataError(
            f"{where}: {json.dumps(value)[:80]} is no token id and no list of them; mend the file"
        )
    return tuple(dict.fromkeys(ids))
