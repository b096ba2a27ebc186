"""Tokenizers: sentencepiece models (loaded, or trained here in a moment) and Hugging Face's tokenizer.json.

Both kinds let the caller say which special pieces of a text count: `encode(text)` recognises all of them,
`encode(text, special=())` none. Text that a user wrote is encoded the second way, so that it can never
forge a role mark (see template.py). Neither kind adds BOS or EOS by itself: templates do that by id.
"""

import io
import json
import os
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, model_validator

from megatron_r1.config.section import Section
from megatron_r1.errors import DataError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer as Backend

ModelType = Literal["word", "bpe", "unigram", "char"]


class TokenizerTraining(Section):
    """Train a sentencepiece model on a source's own corpus when the run starts."""

    source: str
    """Name of a data source that can list its text, such as `arithmetic`."""
    vocab_size: int = Field(default=64, ge=8)
    """Upper bound; a smaller corpus gives a smaller vocabulary."""
    model_type: ModelType = "word"
    """`word` makes every word between spaces one token: for closed vocabularies only."""


class TokenizerConfig(Section):
    """Which tokenizer: give `path`, or (sentencepiece only) `train`."""

    kind: Literal["sentencepiece", "huggingface"]
    path: str | None = None
    """sentencepiece: the .model file. huggingface: tokenizer.json or the directory that holds it."""
    train: TokenizerTraining | None = None
    bos: str | None = None
    """huggingface: the piece that begins a text, where tokenizer_config.json does not say."""
    eos: str | None = None
    """huggingface: the piece that ends an answer, where tokenizer_config.json does not say."""
    pad: str | None = None
    """huggingface: the padding piece, where tokenizer_config.json does not say."""

    @model_validator(mode="after")
    def _one_origin(self) -> "TokenizerConfig":
        if (self.path is None) == (self.train is None):
            raise ValueError("give exactly one of `path` and `train`")
        if self.kind == "huggingface" and self.train is not None:
            raise ValueError("`train` needs kind: sentencepiece")
        if self.kind == "sentencepiece" and (self.bos or self.eos or self.pad):
            raise ValueError("bos, eos and pad are part of a sentencepiece model and can't be set")
        return self


class Tokenizer(Protocol):
    """Text to token ids and back."""

    vocab_size: int
    bos_id: int | None  # None: the model has no such piece, as in Qwen
    eos_id: int
    pad_id: int

    def encode(self, text: str, *, special: Collection[str] | None = None) -> list[int]:
        """Token ids of a text, without BOS and EOS.

        special: the pieces to recognise; None is every special piece, () is plain text throughout.
        Raises DataError when the vocabulary has no token for part of the text.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text with tags readable; bos, eos and pad are dropped."""
        ...

    def piece_id(self, piece: str) -> int:
        """Id of one piece; DataError when the vocabulary lacks it."""
        ...


@lru_cache(maxsize=64)
def _splitter(pieces: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(pieces, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")" if pieces else "(?!)")


def split_special(text: str, pieces: Iterable[str]) -> list[str]:
    """Cut a text at special pieces: plain text at even places, pieces at odd ones."""
    return _splitter(tuple(pieces)).split(text)


class SentencePieceTokenizer:
    """A sentencepiece model whose tags are control symbols, which plain text can never produce.

    A model where every word is one token (model_type word) joins tokens by one space: decode inverts encode
    for text whose words and tags are separated by single spaces.
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
        self.bos_id = processor.bos_id() if processor.bos_id() >= 0 else None
        self.eos_id = processor.eos_id()
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
            if token in self._surface:
                if run:
                    parts.append(self._processor.decode(run))
                    run = []
                if token not in self._dropped:
                    parts.append(self._surface[token])
            else:
                run.append(token)
        if run:
            parts.append(self._processor.decode(run))
        return self._glue.join(parts)

    def piece_id(self, piece: str) -> int:
        token = self._processor.piece_to_id(piece)
        if token == self._processor.unk_id() and piece != self._processor.id_to_piece(token):
            raise DataError(f"{self._name}: no piece {piece!r} among its {self.vocab_size}")
        return token


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
        return self._backend.decode([i for i in ids if i not in self._dropped], skip_special_tokens=False)

    def piece_id(self, piece: str) -> int:
        token = self._backend.token_to_id(piece)
        if token is None:
            raise DataError(f"{self._path}: no piece {piece!r} among its {self.vocab_size}")
        return token


def _user_defined(processor: "SentencePieceProcessor", pieces: list[str]) -> dict[str, int]:
    """Tags that someone else's model knows as user-defined symbols.

    The Python library can't ask for that type; such symbols have score 0, which learnt pieces lack, save the
    first merge of a BPE, which is no tag.
    """
    return {
        piece: i
        for i, piece in enumerate(pieces)
        if piece.startswith("<") and piece.endswith(">") and processor.get_score(i) == 0
        and not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    }  # fmt: skip


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


def train_sentencepiece(
    texts: Iterable[str],
    *,
    path: Path,
    vocab_size: int,
    model_type: ModelType = "word",
    special_pieces: Iterable[str] = (),
) -> None:
    """Train a model and write it atomically; the same texts give the same bytes.

    special_pieces become single tokens after <pad> 0, <bos> 1, <eos> 2, <unk> 3, in the order given.
    """
    import sentencepiece

    words = model_type == "word"
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, model_type=model_type, vocab_size=vocab_size,
            hard_vocab_limit=False, control_symbols=list(special_pieces), character_coverage=1.0,
            num_threads=1, pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="<pad>", bos_piece="<bos>",
            eos_piece="<eos>", unk_piece="<unk>", minloglevel=2,
            # spaces are text unless words are the tokens; without a prefix decode gives them all back
            normalization_rule_name="identity", add_dummy_prefix=words, remove_extra_whitespaces=words,
        )  # fmt: skip
    except RuntimeError as error:
        raise DataError(f"can't train a {model_type} tokenizer of {vocab_size} pieces: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(model.getvalue())
    os.replace(partial, path)


def load_tokenizer(
    config: TokenizerConfig, *, required_pieces: Iterable[str] = (), directory: Path | None = None
) -> Tokenizer:
    """The tokenizer that the configuration asks for, refused if it lacks a required piece.

    required_pieces: what the chat template needs as single tokens; a trained model gets them as its special
    pieces. directory: where a trained model is kept (tokenizer.model); one that is there is used.
    """
    required = tuple(required_pieces)
    if config.kind == "huggingface":
        assert config.path is not None
        tokenizer: Tokenizer = HuggingFaceTokenizer(
            Path(config.path), bos=config.bos, eos=config.eos, pad=config.pad
        )
    elif config.train is not None:
        assert directory is not None, "a trained tokenizer needs a directory to be kept in"
        tokenizer = _trained(config.train, path=directory / "tokenizer.model", special_pieces=required)
    else:
        assert config.path is not None
        tokenizer = _load_sentencepiece(Path(config.path))
    _require(tokenizer, pieces=required, name=config.path or "the trained tokenizer")
    return tokenizer


def _require(tokenizer: Tokenizer, *, pieces: Sequence[str], name: str) -> None:
    missing = []
    for piece in pieces:
        try:
            single = tokenizer.encode(piece) == [tokenizer.piece_id(piece)]
        except DataError:
            single = False
        if not single:
            missing.append(piece)
    if missing:
        raise DataError(f"{name}: the template needs {', '.join(missing)} as single tokens and the tokenizer "
                        "lacks them; add them to it or choose another template")  # fmt: skip


def _load_sentencepiece(path: Path) -> SentencePieceTokenizer:
    import sentencepiece

    if not path.is_file():
        raise DataError(f"{path}: no such file; `path` names a sentencepiece .model")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except RuntimeError as error:
        raise DataError(f"{path}: not a sentencepiece model: {error}") from error
    return SentencePieceTokenizer(processor, name=str(path))


def _trained(
    training: TokenizerTraining, *, path: Path, special_pieces: Sequence[str]
) -> SentencePieceTokenizer:
    """Train unless an earlier start of the run did: token ids must not move under a checkpoint."""
    if not path.is_file():
        train_sentencepiece(
            _corpus(training.source),
            path=path,
            vocab_size=training.vocab_size,
            model_type=training.model_type,
            special_pieces=special_pieces,
        )
    return _load_sentencepiece(path)


def _corpus(source: str) -> Iterable[str]:
    module = f"megatron_r1.data.sources.{source}"
    if find_spec(module) is None:
        raise DataError(f"tokenizer.train.source: no data source {source!r}")
    corpus = vars(import_module(module)).get("corpus")
    if corpus is None:
        raise DataError(f"tokenizer.train.source: {source!r} can't list its text; name another source")
    return corpus()
