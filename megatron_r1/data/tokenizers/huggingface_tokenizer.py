"""Hugging Face's tokenizer.json, through the `tokenizers` library.

The ids of a text are those of transformers' AutoTokenizer wherever that reads the file itself. It doesn't
beside a config.json of Qwen2: there it builds a tokenizer of its own from the vocabulary, with other ids for
numbers. `megatron-r1 convert verify` compares the two and reports differences.
"""

import json
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_r1.data.tokenizers.special_pieces import split_special
from megatron_r1.data.tokenizers.tokenizer_files import TOKENIZER, TokenizerFiles, read_files, read_json
from megatron_r1.errors import DataError
from megatron_r1.files.regular_file import file_problem

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

TRIALS = 1000  # pieces to try, in search of one that the tokenizer encodes


class HuggingFaceTokenizer:
    """A tokenizer.json through the `tokenizers` library."""

    def __init__(
        self,
        path: Path,
        *,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        add_bos: bool | None = None,
        stop: Sequence[str] | None = None,
    ) -> None:
        """bos, eos, pad, add_bos, stop: as in TokenizerConfig."""
        self.path = path / TOKENIZER if path.is_dir() else path
        if problem := file_problem(self.path):
            raise DataError(f"{self.path}: {problem}; `path` names {TOKENIZER} or its directory")
        files = read_files(self.path.parent)
        self._backend = _backend(self.path, json.dumps(_usable(self.path)))
        self._add(files)
        self._special = {t.content: i for i, t in self._backend.get_added_tokens_decoder().items()}
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        eos = eos or files.named["eos"]
        if eos is None:
            raise DataError(f"{self.path}: tokenizer_config.json names no eos_token; set tokenizer.eos")
        self.eos_id = self.piece_id(eos)
        others = files.stop_ids if stop is None else tuple(map(self.piece_id, stop))
        self.eos_ids = tuple(dict.fromkeys([self.eos_id, *others]))
        self.pad_id = self.eos_id if pad is None else self.piece_id(pad)
        if pad is None and files.named["pad"] is not None:  # a vocabulary may lack it, as it is never fed
            found = self._backend.token_to_id(files.named["pad"])
            self.pad_id = self.pad_id if found is None else found
        self.bos_id, self.chat_bos_id = self._begins(bos, files.named["bos"], add_bos)
        self._dropped = {self.bos_id, self.chat_bos_id, self.pad_id, *self.eos_ids}

    def _add(self, files: TokenizerFiles) -> None:
        """Tokens that tokenizer_config.json declares and tokenizer.json lacks, as transformers adds them."""
        from tokenizers import AddedToken

        for token_id, content, flags in files.added:
            if self._backend.token_to_id(content) is None:
                self._backend.add_tokens([AddedToken(content, **flags)])
            found = self._backend.token_to_id(content)
            if found != token_id:
                raise DataError(
                    f"{self.path}: {content!r} is token {found}, and added_tokens_decoder of "
                    f"tokenizer_config.json says {token_id}; fetch both files from one place"
                )

    def _begins(
        self, chosen: str | None, named: str | None, add_bos: bool | None
    ) -> tuple[int | None, int | None]:
        """(bos_id, chat_bos_id): the id before any text, and before a chat whose format writes BOS itself."""
        piece = chosen or named
        bos = None if piece is None else self._backend.token_to_id(piece)
        if chosen is not None:
            bos = self.piece_id(chosen)
        if add_bos is False:
            return None, None
        if add_bos or (add_bos is None and chosen is not None):
            if bos is None:
                raise DataError(f"{self.path}: no BOS is named; set tokenizer.bos, or add_bos: false")
            return bos, bos
        first = self._put_before()
        return first, first if bos is None else bos

    def _put_before(self) -> int | None:
        """The id that the file's post-processor puts before a text; None if it puts none."""
        candidates = ("a", *islice(self._backend.get_vocab(with_added_tokens=False), TRIALS))
        for text in candidates:
            try:
                encoded = self._backend.encode(text)
            except Exception:  # the library raises plain Exceptions, here for an unknown word
                continue
            if 0 in encoded.sequence_ids:
                break
        else:
            raise DataError(f"{self.path}: none of its pieces is a token of itself; fetch it again")
        before = list(
            takewhile(lambda pair: pair[1] is None, zip(encoded.ids, encoded.sequence_ids, strict=True))
        )
        if len(before) > 1:
            raise DataError(
                f"{self.path}: its post-processor begins a text with {len(before)} pieces; set "
                "tokenizer.add_bos to true for BOS alone, or to false for none"
            )
        return before[0][0] if before else None

    @cached_property
    def _plain(self) -> "Backend":
        """The same model without its added tokens, which encodes their names as plain text."""
        content = _usable(self.path) | {"added_tokens": [], "post_processor": None}
        return _backend(self.path, json.dumps(content))

    def encode(self, text: str, *, special: Collection[str] | None = None) -> list[int]:
        found = set(split_special(text, self._special)[1::2])
        if special is None or found <= set(special):
            return self._encoded(self._backend, text)
        ids: list[int] = []
        for place, part in enumerate(split_special(text, [p for p in special if p in self._special])):
            if place % 2:
                ids.append(self._special[part])
            elif part:
                ids.extend(self._encoded(self._plain, part))
        return ids

    def _encoded(self, backend: "Backend", text: str) -> list[int]:
        try:
            return backend.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises plain Exceptions, here for an unknown word
            raise DataError(f"{self.path}: no token for part of {text[:80]!r}: {error}") from None

    def decode(self, ids: Sequence[int]) -> str:
        known = [i for i in ids if i not in self._dropped and i < self.vocab_size]
        # a model's vocabulary may have more rows than the tokenizer has pieces
        unknown = "\ufffd" * sum(i >= self.vocab_size and i not in self._dropped for i in ids)
        return self._backend.decode(known, skip_special_tokens=False) + unknown

    @property
    def special_pieces(self) -> list[str]:
        """The special pieces, in the order of their ids."""
        return sorted(self._special, key=self._special.__getitem__)

    def piece(self, token_id: int) -> str:
        """The piece of an id, as spelt in a text."""
        found = self._backend.id_to_token(token_id)
        assert found is not None, f"token {token_id} has no piece"
        return found

    def piece_id(self, piece: str) -> int:
        token = self._backend.token_to_id(piece)
        if token is None:
            raise DataError(f"{self.path}: no piece {piece!r} among its {self.vocab_size}")
        return token


def _usable(path: Path) -> dict:
    """The file's content without truncation, padding and dropout, so that ids depend on the text only."""
    content = read_json(path)
    if not isinstance(content.get("model"), dict):
        raise DataError(f"{path}: not a tokenizer.json: no `model` in it")
    model = {**content["model"]}
    if model.get("dropout") is not None:
        model["dropout"] = None
    return {**content, "model": model, "truncation": None, "padding": None}


def _backend(path: Path, text: str) -> "Backend":
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_str(text)
    except Exception as error:  # the library raises plain Exceptions
        raise DataError(f"{path}: the tokenizers library can't read it: {error}") from error
