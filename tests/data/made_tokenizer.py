"""A small directory of Hugging Face's tokenizer files, written by the `tokenizers` library."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

BOS, EOS, PAD, TURN = "<|begin|>", "<|end|>", "<|pad|>", "<|turn|>"
ROLES = ("<｜User｜>", "<｜Assistant｜>", "<user>", "<assistant>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SPECIAL = (BOS, EOS, PAD, TURN, *ROLES)
# as Qwen2's and Llama 3's files cut text, but for the digits of Llama 3: three at a time
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
CORPUS = [
    "What is 12345 + 678? The answer is 13023, as 12000 + 1023.",
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it.",
    "<think> reasoning process here </think> <answer> answer here </answer>. User: hello. Assistant: yes",
    "def f(x):\n\treturn x ** 2  # square\n\n\n", "你好，世界。深度求索 Ünïcödé ﬁne", "  two  spaces  ",
]  # fmt: skip


def write(
    folder: Path,
    *,
    begins: bool | None = None,
    pattern: str = QWEN,
    tags: bool = True,
    nfc: bool = True,
    **settings: Any,
) -> Path:
    """begins: whether the post-processor puts BOS before a text; None: there is none. settings: of
    tokenizer_config.json beside eos_token and pad_token; None leaves a key out."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_special_tokens([*SPECIAL])
    if tags:
        tokenizer.add_tokens([*TAGS])
    bos = tokenizer.token_to_id(BOS)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
        )
    elif begins is False:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": EOS, "pad_token": PAD, **settings}
    kept = {key: value for key, value in named.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    return folder
