"""The tokenizer's YAML section, protocol and loader: sentencepiece or Hugging Face's tokenizer.json.

The caller decides which special pieces of a text are recognised: `encode(text)` recognises all of them,
`encode(text, special=())` none. User text is encoded the second way, so that it can't forge a turn (see
data/chat_template.py). Tokenizers never add BOS or EOS; templates add their ids.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, model_validator

from megatron_r1 import registry
from megatron_r1.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from megatron_r1.data.tokenizers.sentencepiece_tokenizer import (
    ModelType,
    SentencePieceTokenizer,
    load_sentencepiece,
    train_sentencepiece,
)
from megatron_r1.data.tokenizers.tokenizer_files import CONFIG, GENERATION, LEGACY, SETTINGS, TOKENIZER
from megatron_r1.errors import DataError
from megatron_r1.files.run_directory import TRAINED_TOKENIZER
from megatron_r1.section import Section


class TokenizerTraining(Section):
    """Train a sentencepiece model on a source's corpus when the run starts."""

    source: str | list[str]
    """Name of a data source that can list its text, in a function `corpus`; or several."""
    vocab_size: int = Field(default=64, ge=8)
    """Upper bound; a smaller corpus gives a smaller vocabulary."""
    model_type: ModelType = "word"
    """`word` makes each word between spaces a token (closed vocabularies only); others encode any text."""

    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else self.source


class TokenizerConfig(Section):
    """Which tokenizer: give `path`, or (sentencepiece only) `train`."""

    kind: Literal["sentencepiece", "huggingface"]
    path: str | None = None
    """sentencepiece: the .model file. huggingface: tokenizer.json or the directory that holds it."""
    train: TokenizerTraining | None = None
    bos: str | None = None
    """huggingface: the BOS piece, if tokenizer_config.json does not name it."""
    eos: str | None = None
    """huggingface: the EOS piece, if tokenizer_config.json does not name it."""
    pad: str | None = None
    """huggingface: the padding piece, if tokenizer_config.json does not name it."""
    add_bos: bool | None = None
    """huggingface: whether BOS begins every prompt and text; null: yes if `bos` is set, otherwise as
    transformers' AutoTokenizer does (the post-processor of tokenizer.json decides)."""
    stop: list[str] | None = None
    """huggingface: pieces besides EOS that end a completion; null: those that generation_config.json beside
    the tokenizer (or config.json) lists as eos_token_id; []: only EOS."""

    def input_files(self) -> list[Path]:
        """The files that decide the token ids; none if the run trains the tokenizer."""
        if self.path is None or self.kind == "sentencepiece":
            return [] if self.path is None else [Path(self.path)]
        path = Path(self.path)
        folder, whole = (path, path / TOKENIZER) if path.is_dir() else (path.parent, path)
        beside = (folder / name for name in (SETTINGS, LEGACY, GENERATION, CONFIG))
        return [whole, *(other for other in beside if other.exists())]

    @model_validator(mode="after")
    def _one_origin(self) -> "TokenizerConfig":
        if (self.path is None) == (self.train is None):
            raise ValueError("give exactly one of `path` and `train`")
        if self.kind == "huggingface" and self.train is not None:
            raise ValueError("`train` needs kind: sentencepiece")
        if self.kind == "sentencepiece":
            names = ("bos", "eos", "pad", "add_bos", "stop")
            given = [name for name in names if getattr(self, name) is not None]
            if given:
                raise ValueError(f"{', '.join(given)}: part of a sentencepiece model and can't be set")
        return self


class Tokenizer(Protocol):
    """Text to token ids and back."""

    vocab_size: int
    bos_id: int | None  # begins every prompt and text; None: nothing does, as in Qwen
    chat_bos_id: int | None  # begins a chat whose format writes BOS itself, as DeepSeek's
    eos_id: int  # ends a trained response
    eos_ids: tuple[int, ...]  # all ids that end a sampled completion; the first is eos_id
    pad_id: int

    def encode(self, text: str, *, special: Collection[str] | None = None) -> list[int]:
        """Token ids of a text, without BOS and EOS.

        special: the pieces to recognise; None: all of them; (): none, everything is plain text.
        Raises DataError if the vocabulary has no token for part of the text.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text, including special pieces except BOS, padding and eos_ids, which are dropped."""
        ...

    def piece_id(self, piece: str) -> int:
        """The id of one piece; DataError if the vocabulary lacks it."""
        ...


def load_tokenizer(
    config: TokenizerConfig, *, required_pieces: Iterable[str] = (), directory: Path | None = None
) -> Tokenizer:
    """The configured tokenizer; DataError if it lacks a required piece.

    required_pieces: the single tokens that the chat template needs; a trained model gets them as its special
    pieces. directory: where a trained model is kept (tokenizer.model); an existing one is used.
    """
    required = tuple(required_pieces)
    if config.kind == "huggingface":
        assert config.path is not None
        tokenizer: Tokenizer = HuggingFaceTokenizer(
            Path(config.path),
            bos=config.bos,
            eos=config.eos,
            pad=config.pad,
            add_bos=config.add_bos,
            stop=config.stop,
        )
    elif config.train is not None:
        assert directory is not None, "a trained tokenizer needs a directory to be kept in"
        tokenizer = _trained(config.train, path=directory / TRAINED_TOKENIZER, special_pieces=required)
    else:
        assert config.path is not None
        tokenizer = load_sentencepiece(Path(config.path))
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


def _trained(
    training: TokenizerTraining, *, path: Path, special_pieces: Sequence[str]
) -> SentencePieceTokenizer:
    """Train unless an earlier start of the run did: token ids must stay those of its checkpoints."""
    if not path.is_file():
        train_sentencepiece(
            _corpus(training.sources()),
            path=path,
            vocab_size=training.vocab_size,
            model_type=training.model_type,
            special_pieces=special_pieces,
        )
    return load_sentencepiece(path)


def _corpus(sources: Sequence[str]) -> Iterable[str]:
    known = registry.sources()
    for source in sources:
        if source not in known:
            there = ", ".join(known)
            raise DataError(f"tokenizer.train.source: no data source {source!r}; there are {there}")
        corpus = vars(known[source].module).get("corpus")
        if corpus is None:
            raise DataError(f"tokenizer.train.source: {source!r} can't list its text; name another source")
        yield from corpus()
