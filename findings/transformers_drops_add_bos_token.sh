#!/usr/bin/env bash
# transformers 5.23.0: add_bos_token in tokenizer_config.json has no effect beside a tokenizer.json.
#
# Expected: add_bos_token: true puts BOS before a text, as released configurations of Llama and DeepSeek say it.
# Seen: only the post-processor of tokenizer.json decides; without one there is no BOS, and no word about it.
# megatron_r1 does the same, so that ids agree, and tokenizer.add_bos overrules it (docs/huggingface.md).
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
from transformers import AutoTokenizer

folder = Path(tempfile.mkdtemp())
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.add_special_tokens(["<s>", "</s>"])
tokenizer.save(str(folder / "tokenizer.json"))
names = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "tokenizer_class": "LlamaTokenizerFast"}
(folder / "tokenizer_config.json").write_text(json.dumps(names))
(folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
loaded = AutoTokenizer.from_pretrained(folder)
ids = loaded("x").input_ids
print(f"add_bos_token: true gives {ids}; BOS is {loaded.bos_token_id}")
assert loaded.bos_token_id not in ids, "changed: BOS is put before the text"
PYTHON
