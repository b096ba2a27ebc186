#!/usr/bin/env bash
# tokenizers 0.23.3: a byte-level BPE that was trained here drops characters, without an error.
#
# Expected: a byte-level tokenizer holds all 256 bytes, so that any text comes back from its ids.
# Seen: BpeTrainer takes the bytes that occur in the training text only, unless initial_alphabet names them
# all, and a model without unk_token leaves out what it lacks: "hello 42" becomes "hello ", and an answer in
# digits becomes no ids at all.
# megatron_r1 trains sentencepiece models with byte fallback (data/tokenizers/sentencepiece_tokenizer.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def trained(**options: object) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, **options)
    tokenizer.train_from_iterator(["hello world, one two three"] * 3, trainer)
    return tokenizer


all_bytes = trained(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
for text, left in [("hello 42", "hello "), ("42", "")]:
    for name, tokenizer in [("as the trainer is", trained()), ("with all bytes", all_bytes)]:
        ids = tokenizer.encode(text).ids
        print(f"{name}: {text!r} is {ids}, and back {tokenizer.decode(ids)!r}")
    assert all_bytes.decode(all_bytes.encode(text).ids) == text
    assert trained().decode(trained().encode(text).ids) == left, "changed"
PYTHON
