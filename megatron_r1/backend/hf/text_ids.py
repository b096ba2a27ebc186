"""Compares token ids of texts with those of transformers' AutoTokenizer, for `verify`.

Equal logits on the same ids aren't enough. AutoTokenizer uses most models' tokenizer.json as it is, but for a
config.json of Qwen2 it builds its own tokenizer from the vocabulary (transformers 5.23), with other ids where
the file splits numbers or spaces differently. A model served through AutoTokenizer then gets other ids than
it was trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megatron_r1.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from megatron_r1.data.tokenizers.tokenizer_files import TOKENIZER
from megatron_r1.errors import DataError

MOST_SHOWN = 12  # ids of a text
LONGEST_ERROR = 200
MOST_PIECES = 200  # special pieces that are tried
TEXTS = [
    "a", "Hello, world!", "hello world", " leading", "trailing ", "  two  spaces  ", "\ttab\there",
    "line\nline", "a\n\nb\n\n\nc", " \n \n", "\r\nwindows\r\n", "7", "42", "123", "1234", "12345",
    "1234567890", "3.14159", "-17", "1,000,000", "1 000", "2^10", "1e-5", "0x7f", "x1y22z333", "12:30",
    "2026-11-29", "½ ² ⅷ ٣ ３", "It's I'LL we've", "don't\u2019t", "\"quoted\" 'so'", "(a+b)*c == d[0]",
    "def f(x):\n    return x ** 2  # square\n", "{{ x }} {% y %}", "$\\frac{1}{2}$ and $x^{2}$",
    "https://example.org/a?b=c&d=1", "snake_case CamelCase SHOUTING", "...!?;:--", "你好，世界。",
    "深度求索 2024 年", "日本語のテキスト", "한국어 텍스트", "Привет, мир", "مرحبا بالعالم", "שלום",
    "नमस्ते", "ไทย", "Ünïcödé naïve", "e\u0301 A\u030a", "ﬁ ﬂ ①", "🙂 👩‍👩‍👧 🇩🇪",
    "zero\u200bwidth \u00a0nbsp\u3000wide", "\ufeffmark", "a\u0000b", "<notapiece>", "<|x|>", "x" * 100,
    "ab" * 60, "word " * 40,
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextIds:
    """kind: AutoTokenizer's class. different: (text, our ids, AutoTokenizer's ids). misread: a text whose ids
    here differ from those of tokenizer.json itself; None: there is none."""

    kind: str
    num_texts: int
    different: list[tuple[str, list[int], list[int]]]
    misread: str | None

    def text(self) -> str:
        if self.misread is not None:
            return f"ids       {self.misread[:40]!r} has other ids here than in {TOKENIZER}"
        if not self.different:
            return f"ids       {self.num_texts} texts have the same ids as by AutoTokenizer ({self.kind})"
        text, ours, theirs = min(self.different, key=lambda one: len(one[0]))
        return (
            f"ids       warning: AutoTokenizer of transformers {version('transformers')} gives "
            f"{len(self.different)} of {self.num_texts} texts other ids: it builds a {self.kind}, and here "
            f"{TOKENIZER} is read as it is; {text[:40]!r} is {_list(ours)} here and {_list(theirs)} there; "
            "serve the model through PreTrainedTokenizerFast or the tokenizers library"
        )


def compare_text_ids(directory: Path) -> TextIds | str:
    """The comparison, or the reason why there is none."""
    if not (directory / TOKENIZER).exists():
        return f"ids       not compared: {directory} has no {TOKENIZER}"
    try:
        ours = HuggingFaceTokenizer(directory)
    except DataError as error:
        return f"ids       not compared: {error}"
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        theirs: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # transformers raises exceptions of any type
        text = " ".join(str(error).split())[:LONGEST_ERROR]
        return f"ids       not compared: AutoTokenizer can't read {directory}: {type(error).__name__}: {text}"
    file = Tokenizer.from_file(str(directory / TOKENIZER))
    file.no_truncation()
    file.no_padding()
    texts = list(_texts(ours))
    different, misread = [], None
    for text in texts:
        mine, there = ours.encode(text), theirs(text)["input_ids"]
        begun = mine if ours.bos_id is None else [ours.bos_id, *mine]
        if begun != there:
            different.append((text, begun, there))
        if mine != file.encode(text, add_special_tokens=False).ids and misread is None:
            misread = text
    return TextIds(type(theirs).__name__, len(texts), different, misread)


def _texts(tokenizer: HuggingFaceTokenizer) -> Iterator[str]:
    yield from TEXTS
    for piece in tokenizer.special_pieces[:MOST_PIECES]:
        yield from (piece, f"a{piece}b", f"a {piece} b")


def _list(ids: list[int]) -> str:
    more = f", ... {len(ids)} in all" if len(ids) > MOST_SHOWN else ""
    return f"[{', '.join(map(str, ids[:MOST_SHOWN]))}{more}]"
