#!/usr/bin/env bash
# transformers 5.23.0: AutoTokenizer beside a qwen2 config.json is not the tokenizer of tokenizer.json.
#
# Expected: AutoTokenizer gives the ids that the file's own pipeline gives, as it does beside llama or qwen3.
# Seen: with model_type qwen2 a Qwen2Tokenizer is built of the file's vocabulary alone, with Qwen2's own
# splitting, whatever the file says: a word-level vocabulary gives no ids at all, without an error.
# megatron_r1 reads the file itself, and convert verify says where AutoTokenizer differs (docs/huggingface.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 tokenizers
"$folder/venv/bin/python" - <<'PYTHON'
import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2, "12": 3}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
text = "one two 12"
own = words.encode(text).ids
for model_type in ("llama", "qwen3", "qwen2"):
    folder = Path(tempfile.mkdtemp())
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    print(f"{model_type}: {ids}; the file says {own}")
    assert (ids == own) == (model_type != "qwen2"), "changed"
PYTHON
