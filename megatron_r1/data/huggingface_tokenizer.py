"""Hugging Face's tokenizer.json, through the `tokenizers` library."""

import json
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_r1.data.special_pieces import split_special
from megatron_r1.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class HuggingFaceTokenizer:
    """A tokenizer.json through the `tokenizers` library."""

    def __init__(self, path: Path, *, bos: str | None, eos: str | None, pad: str | None) -> None:
        from tokenizers import Tokenizer as Backend

        self._path = path / "tokenizer.json" if path.is_dir() else path
        if not self._path.is_file():
            raise DataError(f"{self._path}: no such file; `path` names tokenizer.json or its directory")
        if "model" not in _read_json(self._path):
            raise DataError(f"{self._path}: not a tokenizer.json: no `model` in it")
        self._backend = Backend.from_file(str(self._path))
        self._special = {t.content: i for i, t in self._backend.get_added_tokens_decoder().items()}
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        named = _named_pieces(self._path.with_name("tokenizer_config.json"))
        eos = eos or named["eos"]
        if eos is None:
            raise DataError(f"{self._path}: tokenizer_config.json names no eos_token; set tokenizer.eos")
        bos, pad = bos or named["bos"], pad or named["pad"] or eos
        self.bos_id = None if bos is None else self.piece_id(bos)
        self.eos_id = self.piece_id(eos)
        self.pad_id = self.piece_id(pad)
        self._dropped = {self.bos_id, self.eos_id, self.pad_id}

    @cached_property
    def _plain(self) -> "Backend":
        """The same model without its added tokens, so that their names are text like any other."""
        from tokenizers import Tokenizer as Backend

        content = _read_json(self._path)
        return Backend.from_str(json.dumps(content | {"added_tokens": [], "post_processor": None}))

    def encode(self, text: str, *, special: Collection[str] | None = None) -> list[int]:
        found = set(split_special(text, self._special)[1::2])
        if special is None or found <= set(special):
            return self._backend.encode(text, add_special_tokens=False).ids
        ids: list[int] = []
        for place, part in enumerate(split_special(text, [p for p in special if p in self._special])):
            if place % 2:
                ids.append(self._special[part])
            elif part:
                ids.extend(self._plain.encode(part, add_special_tokens=False).ids)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        known = [i for i in ids if i not in self._dropped and i < self.vocab_size]
        # a model's vocabulary may have more rows than the tokenizer has pieces
        unknown = "\ufffd" * sum(i >= self.vocab_size for i in ids)
        return self._backend.decode(known, skip_special_tokens=False) + unknown

    def piece_id(self, piece: str) -> int:
        token = self._backend.token_to_id(piece)
        if token is None:
            raise DataError(f"{self._path}: no piece {piece!r} among its {self.vocab_size}")
        return token


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a JSON object is needed, not a {type(content).__name__}")
    return content


def _named_pieces(path: Path) -> dict[str, str | None]:
    """bos, eos and pad as tokenizer_config.json names them: a string, or a mapping with `content`."""
    content = _read_json(path) if path.is_file() else {}
    named = {role: content.get(f"{role}_token") for role in ("bos", "eos", "pad")}
    return {role: piece["content"] if isinstance(piece, dict) else piece for role, piece in named.items()}
