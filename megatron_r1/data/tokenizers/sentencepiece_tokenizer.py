"""Sentencepiece tokenizers: loaded from a .model file, or trained."""

import io
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from megatron_r1.data.tokenizers.special_pieces import split_special
from megatron_r1.errors import DataError
from megatron_r1.files.atomic import write_whole
from megatron_r1.files.regular_file import read_bytes

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

ModelType = Literal["word", "bpe", "unigram"]


class SentencePieceTokenizer:
    """A sentencepiece model whose tags are control symbols, which plain text can't produce.

    With model_type word, decode joins words and tags by one space, so it inverts encode for text with single
    spaces between them.
    """

    def __init__(self, processor: "SentencePieceProcessor", *, name: str) -> None:
        self._processor = processor
        self._name = name
        self.vocab_size = processor.vocab_size()
        pieces = [processor.id_to_piece(i) for i in range(self.vocab_size)]
        control = {piece: i for i, piece in enumerate(pieces) if processor.is_control(i)}
        self._user_defined = _user_defined(processor, pieces)
        self._special = control | self._user_defined
        self._surface = {i: piece for piece, i in self._special.items()}
        plain = [p for i, p in enumerate(pieces) if i not in self._surface and not processor.is_unknown(i)]
        self._glue = " " if all(piece.startswith("▁") for piece in plain) else ""
        self.bos_id = self.chat_bos_id = processor.bos_id() if processor.bos_id() >= 0 else None
        self.eos_id = processor.eos_id()
        self.eos_ids = (self.eos_id,)
        if self.eos_id < 0:
            raise DataError(
                f"{name}: the sentencepiece model has no end-of-sequence piece; train it with one"
            )
        self.pad_id = processor.pad_id() if processor.pad_id() >= 0 else self.eos_id
        self._dropped = {self.bos_id, self.eos_id, self.pad_id}

    def encode(self, text: str, *, special: Collection[str] | None = None) -> list[int]:
        allowed = self._special if special is None else [p for p in special if p in self._special]
        ids: list[int] = []
        for place, part in enumerate(split_special(text, allowed)):
            if place % 2:
                ids.append(self._special[part])
            elif part:
                ids.extend(self._encode_plain(part))
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        forged = next((piece for piece in self._user_defined if piece in text), None)
        if forged:
            raise DataError(
                f"{self._name}: can't encode {forged!r} as plain text in {text[:80]!r}; remove it"
            )
        ids = self._processor.encode(text)
        if self._processor.unk_id() in ids:
            words = [w for w in text.split() if self._processor.unk_id() in self._processor.encode(w)]
            raise DataError(f"{self._name}: no token for {', '.join(map(repr, words[:5]))} in {text[:80]!r}; "
                            "use a tokenizer trained on this kind of text")  # fmt: skip
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        parts: list[str] = []
        run: list[int] = []
        for token in ids:
            if token not in self._surface and token < self.vocab_size:
                run.append(token)
                continue
            if run:
                parts.append(self._processor.decode(run))
                run = []
            if token not in self._dropped:
                # a model's vocabulary may have more rows than the tokenizer has pieces
                parts.append(self._surface.get(token, "\ufffd"))
        if run:
            parts.append(self._processor.decode(run))
        return self._glue.join(parts)

    def piece_id(self, piece: str) -> int:
        token = self._processor.piece_to_id(piece)
        if token == self._processor.unk_id() and piece != self._processor.id_to_piece(token):
            raise DataError(f"{self._name}: no piece {piece!r} among its {self.vocab_size}")
        return token


def _user_defined(processor: "SentencePieceProcessor", pieces: list[str]) -> dict[str, int]:
    """Tags that a model of other origin has as user-defined symbols.

    The Python library can't ask for that type. But such symbols have score 0, unlike learnt pieces, except
    for the first merge of a BPE, which is not a tag.
    """
    return {
        piece: i
        for i, piece in enumerate(pieces)
        if piece.startswith("<") and piece.endswith(">") and processor.get_score(i) == 0
        and not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    }  # fmt: skip


def load_sentencepiece(path: Path) -> SentencePieceTokenizer:
    """Read a .model file; DataError if it isn't one."""
    import sentencepiece

    model = read_bytes(path, error=DataError, remedy="`path` names a sentencepiece .model")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise DataError(f"{path}: not a sentencepiece model: {error}") from error
    return SentencePieceTokenizer(processor, name=str(path))


def train_sentencepiece(
    texts: Iterable[str],
    *,
    path: Path,
    vocab_size: int,
    model_type: ModelType = "word",
    special_pieces: Iterable[str] = (),
) -> None:
    """Train a model and write it atomically; the same texts give the same bytes.

    special_pieces become single tokens, in the order given, after <pad> 0, <bos> 1, <eos> 2, <unk> 3.
    """
    import sentencepiece

    words = model_type == "word"
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, model_type=model_type, vocab_size=vocab_size,
            hard_vocab_limit=False, control_symbols=list(special_pieces), character_coverage=1.0,
            num_threads=1, pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="<pad>", bos_piece="<bos>",
            eos_piece="<eos>", unk_piece="<unk>", minloglevel=2, byte_fallback=not words,
            # unless tokens are words, spaces are text, and decode restores all of them
            normalization_rule_name="identity", add_dummy_prefix=words, remove_extra_whitespaces=words,
        )  # fmt: skip
    except RuntimeError as error:
        raise DataError(f"can't train a {model_type} tokenizer of {vocab_size} pieces: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, model.getvalue(), suffix=f".{os.getpid()}")
